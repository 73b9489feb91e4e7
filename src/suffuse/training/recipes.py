"""The kinds of recipes, by what they learn."""

from __future__ import annotations

from suffuse.models.alignment import AlignmentConfig
from suffuse.models.codec import CodecConfig
from suffuse.models.config import ModelConfig
from suffuse.training.alignment_recipe import AlignmentRecipe
from suffuse.training.codec_recipe import CodecRecipe
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_base import RecipePart, Resolved

__all__ = ["RECIPES", "AnyRecipe", "AnyResolved"]

AnyRecipe = Recipe | CodecRecipe | AlignmentRecipe
AnyResolved = Resolved[AnyRecipe, ModelConfig | CodecConfig | AlignmentConfig]

RECIPES: dict[str, type[RecipePart]] = {
    "generator": Recipe,
    "codec": CodecRecipe,
    "alignment": AlignmentRecipe,
}
"""What a recipe's `learns` says -> its class."""
