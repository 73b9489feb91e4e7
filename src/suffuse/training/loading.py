"""What a run learns from: its data, as latents where there is a codec, with what its conditioner reads of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from suffuse.data import Dataset
from suffuse.models.config import ConditionerConfig
from suffuse.training.alignment_recipe import AlignmentRecipe
from suffuse.training.companions import accompanied, settled
from suffuse.training.latents import CodecRun, draw_spreads, latents_of, own_codec, spreads_of
from suffuse.training.recipe import Recipe
from suffuse.training.recipes import AnyRecipe, AnyResolved
from suffuse.training.run_files import LATENTS_PICTURE
from suffuse.training.world import World

__all__ = ["loaded"]

Note = Callable[[str], None]


def loaded(recipe: AnyRecipe, folder: Path, world: World, note: Note) -> tuple[AnyResolved, Dataset]:
    """Read the data (the first process fills the caches for the others) and let them decide what is open.

    Args:
        recipe: With its frozen models in the run's folder.
        folder: Of the run.
        world: The processes.
        note: Told what the data are and what was chosen; only of the first process.

    Raises:
        UsageError: The data cannot be read, or recipe and data do not go together.
    """
    read = world.first_alone(recipe.data.load, "read the data")
    dataset = recipe.data.load() if read is None else read
    if world.first:
        for line in dataset.report.lines():
            note(line)
    images = dataset
    if isinstance(recipe, Recipe) and recipe.codec is not None:
        recipe, dataset = _as_latents(recipe, recipe.codec, images, folder, world)
        if world.first and not (folder / LATENTS_PICTURE).is_file():
            _tell_spread(images, dataset, folder, note)
    if isinstance(recipe, Recipe | AlignmentRecipe) and not isinstance(recipe.conditioner, str):
        recipe, dataset = _with_companions(recipe, recipe.conditioner, images, dataset, folder, world, note)
    resolved = recipe.resolve(dataset)
    if world.first:
        for line in (*resolved.notes, *_remarks(resolved.recipe, world)):
            note(line)
    return resolved, dataset


def _as_latents(recipe: Recipe, codec: CodecRun, images: Dataset, folder: Path, world: World) -> tuple[Recipe, Dataset]:
    """The recipe with its own copy of the codec, and the latents of the images."""

    def encode() -> Dataset:
        return latents_of(own, images, folder, world.device, mirrored=recipe.training.flip)

    made = world.first_alone(lambda: own_codec(codec, images, folder, world.device), "measure the codec")
    own = world.from_first(made)
    first = world.first_alone(encode, "encode the images")
    return recipe.replace(codec=own), encode() if first is None else first


def _with_companions(
    recipe: Recipe | AlignmentRecipe,
    conditioner: ConditionerConfig,
    images: Dataset,
    dataset: Dataset,
    folder: Path,
    world: World,
    note: Note,
) -> tuple[Recipe | AlignmentRecipe, Dataset]:
    """The recipe with what the data decide about its conditioner, and the data with what that reads."""
    told = note if world.first else lambda text: None

    def accompany() -> Dataset:
        return accompanied(dataset, images, own, folder, world.device, told)

    made = world.first_alone(lambda: settled(conditioner, images, folder, world.device), "read the captions")
    own = world.from_first(made)
    first = world.first_alone(accompany, "read the captions")
    return recipe.replace(conditioner=own), accompany() if first is None else first


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
