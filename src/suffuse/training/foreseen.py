"""What can be told of a stage before an earlier one is trained: captions, text models, runs and sizes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from suffuse.data import Dataset
from suffuse.models.semantic import Semantic
from suffuse.training.alignment_recipe import AlignmentRecipe
from suffuse.training.codec_recipe import CodecRecipe
from suffuse.training.companions import settled
from suffuse.training.frozen_parts import find_codec
from suffuse.training.recipes import AnyRecipe
from suffuse.training.stage_places import references

__all__ = ["foresee"]


def foresee(recipe: AnyRecipe, images: Dataset) -> None:
    """Refuse what its data, or runs and models that it names, do not allow; what earlier stages bring is not asked for.

    Args:
        recipe: Of a stage.
        images: Its data as they come.

    Raises:
        UsageError: As training would, hours later.
    """
    if isinstance(recipe, CodecRecipe | AlignmentRecipe):
        recipe.network.latent_shape(images.shape)
    elif recipe.codec is not None and not references(recipe.codec.dump()):
        find_codec(recipe.codec, Path())
    conditioner = None if isinstance(recipe, CodecRecipe) else recipe.conditioner
    if conditioner is None or isinstance(conditioner, str):
        return
    if isinstance(conditioner, Semantic):
        conditioner.seeing(images.shape)
    # A first stage is copied into the run before it is looked at, and may not be there yet.
    part = conditioner.text if references(conditioner.dump()) or conditioner.draws_from else conditioner
    if part is not None and not references(part.dump()):
        with tempfile.TemporaryDirectory() as folder:
            settled(part, images, Path(folder), torch.device("cpu"))
