"""The model card: what a stranger reads first in a run's folder and on the Hub."""

from __future__ import annotations

from pathlib import Path

from suffuse.base import files
from suffuse.data import Dataset
from suffuse.models.config import ModelConfig
from suffuse.training.recipe import Recipe

__all__ = ["add_figures", "model_card"]

_FIGURES = "## Figures"


def model_card(recipe: Recipe, config: ModelConfig, dataset: Dataset) -> str:
    """Markdown with the Hub's header.

    Args:
        recipe: What was done.
        config: What came out.
        dataset: What was learned from.
    """
    classes = f"{len(config.classes)} classes" if config.classes else "no labels"
    size = "x".join(str(n) for n in config.shape)
    lines = [
        "---",
        "library_name: suffuse",
        "tags: [diffusion, suffuse]",
        "pipeline_tag: unconditional-image-generation",
        "---",
        "# A diffusion model trained with suffuse",
        "",
        recipe.about or "Trained from a recipe of its own; see `recipe.yaml`.",
        "",
        "| | |",
        "|---|---|",
        f"| data | {dataset.name}, {len(dataset)} samples of {size}, {classes} |",
        f"| network | {config.network.kind} |",
        f"| process | path {config.path.kind}, prediction {config.prediction.kind}, time {config.time.kind} |",
        f"| weights | {config.weights} after {config.step} steps of {recipe.training.batch} images |",
        "",
        "```",
        "suffuse sample <this folder> --n 16",
        "```",
        "",
    ]
    return "\n".join(lines)


def add_figures(folder: Path, table: str) -> None:
    """Put an evaluation's table under the card's last heading, in place of an older one."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    files.write_text(path, f"{text.split(_FIGURES)[0].rstrip()}\n\n{_FIGURES}\n\n{table}\n")
