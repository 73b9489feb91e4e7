"""What training in buckets asks of a recipe: parts that take samples of any sides."""

from __future__ import annotations

from dataclasses import replace

import torch

from suffuse.base.errors import UsageError
from suffuse.data import Buckets, Dataset
from suffuse.models.codec import CodecConfig
from suffuse.models.config import ModelConfig
from suffuse.training.recipe import Recipe
from suffuse.training.recipes import AnyResolved

__all__ = ["check_encoded", "in_squares", "main_of"]

_MEND = "or leave data.aspects out"


def main_of(samples: Dataset | Buckets) -> Dataset:
    """The samples, or the largest bucket of them: what decides about a recipe."""
    return samples.main if isinstance(samples, Buckets) else samples


def check_encoded(codec: CodecConfig, pictures: Buckets) -> None:
    """Refuse an autoencoder that takes squares alone, or cannot divide a side.

    Raises:
        UsageError: Names the shape.
    """
    for part in pictures.parts:
        if codec.network.fixed_size:
            raise UsageError(
                f"data.aspects gives pictures of several shapes, but the codec {codec.network.kind!r} takes one; "
                f"choose another autoencoder, {_MEND}"
            )
        codec.network.latent_shape(part.shape)


def in_squares(resolved: AnyResolved, shape: tuple[int, ...], samples: Buckets) -> AnyResolved:
    """The model that learns buckets and makes squares when nothing else is asked.

    Args:
        resolved: By the main bucket.
        shape: Of a square, (C, H, W), or of its latent.
        samples: What is learned.

    Raises:
        UsageError: The network takes one size, or none of a bucket's; the conditioner shows pictures of one size.
    """
    recipe, model = resolved.recipe, resolved.model
    assert isinstance(recipe, Recipe)
    assert isinstance(model, ModelConfig)
    if model.network.fixed_size:
        raise UsageError(
            f"data.aspects gives samples of several shapes, but network {model.network.kind!r} takes one; choose "
            f"unet, diffnext or convnext_prior, {_MEND}"
        )
    if model.conditioner.extra_channels(model.shape):
        raise UsageError(
            f"conditioner {model.conditioner.kind!r} puts a picture of one size beside the sample, but data.aspects "
            f"gives samples of several; choose another conditioner, {_MEND}"
        )
    with torch.device("meta"):
        for wanted in (shape, *(part.shape for part in samples.parts)):
            model.network.build(wanted)
    return replace(resolved, model=model.replace(shape=shape))
