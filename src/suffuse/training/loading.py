"""What a run learns from: its data, as latents where there is a codec, with what its conditioner reads of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from suffuse.data import Buckets, Dataset
from suffuse.data.ingest import PicturesPart
from suffuse.models.config import ConditionerConfig
from suffuse.models.pretrained import load_codec_config
from suffuse.training.alignment_recipe import AlignmentRecipe
from suffuse.training.bucketed import check_encoded, check_learned, main_of
from suffuse.training.companions import accompanied, settled
from suffuse.training.latents import CodecRun, draw_spreads, latents_of, own_codec, spreads_of
from suffuse.training.recipe import Recipe
from suffuse.training.recipes import AnyRecipe, AnyResolved
from suffuse.training.run_files import LATENTS_PICTURE
from suffuse.training.world import World

__all__ = ["loaded"]

Note = Callable[[str], None]
Samples = Dataset | Buckets


def loaded(recipe: AnyRecipe, folder: Path, world: World, note: Note) -> tuple[AnyResolved, Samples, str]:
    """Read the data (the first process fills the caches for the others) and let them decide what is open.

    Args:
        recipe: With its frozen models in the run's folder.
        folder: Of the run.
        world: The processes.
        note: Told what the data are and what was chosen; only of the first process.

    Returns:
        The recipe and its model; the samples; the fingerprint of the data as they came, before any codec.

    Raises:
        UsageError: The data cannot be read, or recipe and data do not go together.
    """
    images = world.each_after_first(recipe.data.load, "read the data")
    told = note if world.first else lambda text: None
    for line in images.report.lines():
        told(line)
    pictures = _in_buckets(recipe, images, world, told) or images
    samples = pictures
    if isinstance(recipe, Recipe) and recipe.codec is not None:
        recipe, samples = _as_latents(recipe, recipe.codec, images, pictures, folder, world)
        if world.first and not (folder / LATENTS_PICTURE).is_file():
            _tell_spread(images, main_of(samples), folder, note)
    if isinstance(recipe, Recipe | AlignmentRecipe) and not isinstance(recipe.conditioner, str):
        recipe, samples = _with_companions(recipe, recipe.conditioner, images, pictures, samples, folder, world, told)
    resolved = _resolved(recipe, images, samples, folder)
    for line in (*resolved.notes, *_remarks(resolved.recipe, world)):
        told(line)
    return resolved, samples, images.fingerprint


def _resolved(recipe: AnyRecipe, images: Dataset, samples: Samples, folder: Path) -> AnyResolved:
    """The recipe and its model; that of buckets makes squares when nothing else is asked."""
    if not isinstance(samples, Buckets):
        return recipe.resolve(samples)
    assert isinstance(recipe, Recipe)
    square = images.shape if recipe.codec is None else load_codec_config(folder / recipe.codec.run).latent_shape
    resolved = recipe.resolve(samples.main, square)
    check_learned(recipe, resolved.model, samples, folder)
    return resolved


def _in_buckets(recipe: AnyRecipe, images: Dataset, world: World, note: Note) -> Buckets | None:
    """The pictures in several shapes, where a generator is asked to learn them so.

    Args:
        recipe: Of which kind it is, and how its pictures are to be taken.
        images: Their middle squares.
        world: The processes.
        note: Told how many there are of which shape.
    """
    data = recipe.data
    if not isinstance(recipe, Recipe) or not isinstance(data, PicturesPart) or not data.aspects:
        return None
    buckets = world.each_after_first(data.load_buckets, "read the data")
    assert buckets is not None
    for line in buckets.lines():
        note(line)
    if data.channels == "auto" and images.shape[0] == 1:
        note("all pictures are taken as grey, as their middle squares are; data.channels=rgb keeps colour")
    return buckets


def _as_latents(
    recipe: Recipe, codec: CodecRun, images: Dataset, pictures: Samples, folder: Path, world: World
) -> tuple[Recipe, Samples]:
    """The recipe with its own copy of the codec, and the latents of the pictures."""

    def encode() -> Samples:
        def one(part: Dataset) -> Dataset:
            return latents_of(own, part, folder, world.device, mirrored=recipe.training.flip)

        return pictures.each(one) if isinstance(pictures, Buckets) else one(pictures)

    made = world.first_alone(lambda: own_codec(codec, images, folder, world.device), "measure the codec")
    own = world.from_first(made)
    if isinstance(pictures, Buckets):
        check_encoded(load_codec_config(folder / own.run), pictures)
    return recipe.replace(codec=own), world.each_after_first(encode, "encode the images")


def _with_companions(
    recipe: Recipe | AlignmentRecipe,
    conditioner: ConditionerConfig,
    images: Dataset,
    pictures: Samples,
    samples: Samples,
    folder: Path,
    world: World,
    note: Note,
) -> tuple[Recipe | AlignmentRecipe, Samples]:
    """The recipe with what the data decide about its conditioner, and the data with what that reads."""

    def accompany() -> Samples:
        if isinstance(samples, Buckets):
            assert isinstance(pictures, Buckets)
            pairs = tuple(zip(samples.parts, pictures.parts, strict=True))
            return Buckets(accompanied(pairs, own, folder, world.device, note))
        assert isinstance(pictures, Dataset)
        return accompanied([(samples, pictures)], own, folder, world.device, note)[0]

    made = world.first_alone(lambda: settled(conditioner, images, folder, world.device), "read the captions")
    own = world.from_first(made)
    return recipe.replace(conditioner=own), world.each_after_first(accompany, "read the captions")


def _remarks(recipe: AnyRecipe, world: World) -> tuple[str, ...]:
    """What a user should know of parts that depend on a process's share of the batch."""
    if not isinstance(recipe, Recipe) or isinstance(recipe.conditioner, str):
        return ()
    said = recipe.coupling.remark(recipe.training.batch // world.size, recipe.conditioner.label_count)
    return () if said is None else (said,)


def _tell_spread(images: Dataset, latents: Dataset, folder: Path, note: Note) -> None:
    """Say how the latents spread beside the pixels, and draw it."""
    found = (*spreads_of(images, "pixels"), *spreads_of(latents, "latent"))
    for item in found:
        note(
            f"{item.name}: {item.outside:.2%} beyond the outer fences {item.fences[0]:.3g} and {item.fences[1]:.3g}, "
            f"the furthest {item.furthest:.1f} deviations from the mean"
        )
    draw_spreads(found, folder / LATENTS_PICTURE)
