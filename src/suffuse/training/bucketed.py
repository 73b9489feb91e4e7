"""What training in buckets asks of a recipe: parts that take samples of any sides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.data import Buckets, Dataset
from suffuse.models.codec import CodecConfig
from suffuse.models.config import ModelConfig
from suffuse.models.pretrained import load_config
from suffuse.objectives import Bootstrap
from suffuse.objectives.frozen import FrozenRun
from suffuse.training.frozen_parts import located
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


def check_learned(recipe: Recipe, model: ModelConfig, samples: Buckets, folder: Path) -> None:
    """Refuse a model that cannot take all shapes of its samples.

    Args:
        recipe: Of the run.
        model: What is trained.
        samples: In several shapes.
        folder: Of the run, with its copies of the models that the objective asks.

    Raises:
        UsageError: The network, or one that the objective asks, takes one size or cannot divide a side; the conditioner
            shows pictures of one size; the objective draws samples itself.
    """
    if isinstance(recipe.objective, Bootstrap):
        raise UsageError(f"objective {recipe.objective.kind!r} draws what it learns from, in one shape; {_MEND}")
    for part in samples.parts:
        model.check_shape(part.shape, f"choose a larger data.multiple, a network that takes any sides, {_MEND}")
    for frozen in _frozen(located(recipe, folder).objective):
        asked = load_config(Path(frozen.run))
        for part in samples.parts:
            asked.check_shape(part.shape, f"choose another run than {frozen.run} in the objective, {_MEND}")


def _frozen(part: Part) -> Iterator[FrozenRun]:
    """The finished models that a part asks."""
    if isinstance(part, FrozenRun):
        yield part
    for name in type(part).model_fields:
        if isinstance(value := getattr(part, name), Part):
            yield from _frozen(value)
