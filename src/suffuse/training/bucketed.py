"""What training in buckets asks of a recipe: parts that take samples of any sides."""

from __future__ import annotations

from suffuse.base.errors import UsageError
from suffuse.data import Buckets, Dataset
from suffuse.models.codec import CodecConfig
from suffuse.models.config import ModelConfig
from suffuse.objectives import Bootstrap
from suffuse.training.recipe import Recipe

__all__ = ["check_encoded", "check_learned", "main_of"]

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


def check_learned(recipe: Recipe, model: ModelConfig, samples: Buckets) -> None:
    """Refuse a model that cannot take all shapes of its samples.

    Raises:
        UsageError: The network takes one size, or cannot divide a side; the conditioner shows pictures of one size; the
            objective draws samples itself.
    """
    if isinstance(recipe.objective, Bootstrap):
        raise UsageError(f"objective {recipe.objective.kind!r} draws what it learns from, in one shape; {_MEND}")
    for part in samples.parts:
        model.check_shape(part.shape, f"choose a larger data.multiple, a network that takes any sides, {_MEND}")
