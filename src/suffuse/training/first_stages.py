"""What a fresh model starts from: weights of a finished run, a finished autoencoder whose image it refines."""

from __future__ import annotations

from pathlib import Path

import torch

from suffuse.base.errors import RunError, UsageError
from suffuse.base.randomness import keys
from suffuse.base.weights import load_weights
from suffuse.data import Dataset
from suffuse.models.alignment import Alignment
from suffuse.models.codec import Codec
from suffuse.models.conditioner import ConditionerPart
from suffuse.models.denoiser import Denoiser
from suffuse.models.frozen_text import FrozenTextConditioner
from suffuse.models.low_resolution import LowResolution
from suffuse.models.pretrained import load_alignment, load_codec, load_codec_config, load_config
from suffuse.models.reconstruction import Reconstruction, ReconstructionConditioner
from suffuse.models.text import TextEncoder
from suffuse.networks.autoencoders.compressor import CompressorNetwork
from suffuse.networks.part import seeded
from suffuse.training.frozen_parts import start_from
from suffuse.training.measured import samples_of, some
from suffuse.training.recipe import Recipe
from suffuse.training.recipes import AnyRecipe

__all__ = ["begun", "with_first_stage"]


def with_first_stage(conditioner: ConditionerPart, images: Dataset, folder: Path) -> ConditionerPart:
    """The conditioner with its first stage's network filled in; a first stage that draws is only looked at.

    Args:
        conditioner: As the recipe has it.
        images: The data as they came, before any codec.
        folder: Of the run, in which there may be a copy of the first stage.

    Raises:
        UsageError: No such autoencoder, or one for other images; a generator of images of another size.
    """
    if isinstance(conditioner, LowResolution) and conditioner.run is not None:
        _check_small(conditioner, images, folder / conditioner.run)
    if not isinstance(conditioner, Reconstruction):
        return conditioner
    codec = _opened(conditioner)
    assert codec.config is not None
    if codec.config.shape != images.shape:
        raise UsageError(
            f"conditioner.run {conditioner.run} encodes images of {codec.config.shape}, but the data have "
            f"{images.shape}; train the autoencoder on the same data"
        )
    return conditioner.replace(network=codec.config.network)


def _check_small(conditioner: LowResolution, images: Dataset, place: Path) -> None:
    config = load_config(place)
    made = config.shape if config.codec is None else load_codec_config(place / config.codec).shape
    large = conditioner.seeing(images.shape) if conditioner.sees_images else conditioner
    wanted = large.small_shape(images.shape)
    if made != wanted:
        raise UsageError(
            f"conditioner.run makes images of {made}, but images of {images.shape} are enlarged by "
            f"{conditioner.factor} from {wanted}; train it at that size, or change conditioner.factor"
        )


def _opened(conditioner: Reconstruction) -> Codec:
    try:
        return load_codec(conditioner.run, weights=conditioner.weights)
    except (UsageError, RunError) as error:
        raise UsageError(
            f"conditioner.run {conditioner.run!r} cannot be opened ({error}); train an autoencoder first, such as "
            "suffuse train digits-vae, and name its run"
        ) from None


def begun(model: Denoiser | Codec | Alignment, recipe: AnyRecipe, dataset: Dataset) -> tuple[str, ...]:
    """Give a fresh model the weights that its recipe starts from; sentences about it.

    Raises:
        UsageError: Another architecture, or weights that would mean something else.
    """
    said = () if getattr(recipe, "init", None) is not None else _begin_compressors(model)
    if not isinstance(recipe, Recipe) or not isinstance(model, Denoiser):
        return said
    if recipe.init is not None:
        said = (start_from(model, recipe.init),)
    if isinstance(recipe.conditioner, Reconstruction):
        assert isinstance(model.conditioner, ReconstructionConditioner)
        _begin_first_stage(model.conditioner, recipe.conditioner, dataset)
    for live in model.modules():
        if isinstance(live, FrozenTextConditioner) and live.part.absent == "empty" and recipe.init is None:
            live.fill(live.part.opened())
        if isinstance(live, TextEncoder) and live.part.run is not None and recipe.init is None:
            said = (*said, _begin_text(live, live.part.run))
    return said


def _begin_compressors(model: Denoiser | Codec | Alignment) -> tuple[str, ...]:
    """The weights that compressors start from; sentences about them."""
    with seeded(0):  # torchvision draws weights before it reads those that are fetched
        said = [live.start() for live in model.modules() if isinstance(live, CompressorNetwork)]
    return tuple(line for line in said if line is not None)


def _begin_text(live: TextEncoder, run: str) -> str:
    """The weights of an encoder that was trained beforehand; what its run did not need stays fresh. A sentence."""
    source = load_alignment(run)
    found = source.text.state_dict()
    fresh = {name: value for name, value in live.state_dict().items() if name == "nothing" or name not in found}
    load_weights(live, {**found, **fresh}, owner=f"the text encoder of {run}")
    assert source.config is not None
    part, kept = live.part, "is kept" if live.part.frozen else "is trained on"
    made = f"{part.depth} layers of {part.width}, captions of {part.length} tokens"
    return f"the text encoder of {run} ({source.config.weights}, step {source.config.step}; {made}) {kept}"


@torch.no_grad()
def _begin_first_stage(live: ReconstructionConditioner, part: Reconstruction, dataset: Dataset) -> None:
    """The weights of the autoencoder, and a density fitted to its latents of the data."""
    load_weights(live.first, _opened(part).network.state_dict(), owner=f"the run {part.run}")
    found = []
    for index in some(dataset):
        seeds = keys(0, "density", 0, index)
        found.append(live.latents(samples_of(dataset, index), seeds).flatten(1))
    live.density.fit(torch.cat(found))
