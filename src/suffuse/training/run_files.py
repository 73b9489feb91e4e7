"""Names of the files in a run's folder."""

from __future__ import annotations

__all__ = ["CHECKPOINTS", "LATENTS_PICTURE", "RECIPE_FILE", "STAGES", "STAGES_FILE", "STAGE_FILE"]

RECIPE_FILE = "recipe.yaml"
CHECKPOINTS = "checkpoints"
LATENTS_PICTURE = "latents.png"
STAGES = "stages"
STAGES_FILE = "stages.yaml"
STAGE_FILE = "stage.json"
