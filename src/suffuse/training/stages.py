"""Stages: recipes that build on one another, trained in order, each a run of its own; the last one is the run.

`stage:NAME` in place of a run's folder names an earlier stage. All that is beside `stages` holds for each. Earlier
stages live in `stages/NAME` of the run's folder. The last takes along what it needs of them, so that the folder is a
model like any other.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from suffuse.base import files
from suffuse.base.errors import UsageError, closest, unknown_name
from suffuse.training.foreseen import foresee
from suffuse.training.lock import RunLock
from suffuse.training.recipe_files import (
    Tree,
    dump_tree,
    load_recipe,
    merged,
    overrides_of,
    read_recipe_file,
    recipe_from,
    stage_tree,
)
from suffuse.training.recipes import AnyRecipe
from suffuse.training.run import Finished, Watcher, check_resumable, train
from suffuse.training.run_files import RECIPE_FILE, STAGES, STAGES_FILE
from suffuse.training.stage_places import (
    Images,
    Place,
    check_begun,
    folder_of,
    is_untouched,
    place_of,
    references,
    refuse_stale,
)
from suffuse.training.world import World, joined

__all__ = ["Staged", "has_stages", "load_stages", "train_stages"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Staged:
    """A recipe with stages.

    Attributes:
        about: What it is for, in a line.
        technique: Key in the table of techniques.
        stages: Recipes by name, in order; those that build on an earlier one name it as `stage:NAME`.
        out: Folder of the run; runs/<name of the recipe> when None.
    """

    about: str
    technique: str
    stages: Mapping[str, AnyRecipe]
    out: str | None = None

    def dump(self) -> Tree:
        """Plain data that reads back as an equal one."""
        plain = {name: {k: v for k, v in recipe.dump().items() if k != "out"} for name, recipe in self.stages.items()}
        own = {"learns": "stages", "about": self.about, "technique": self.technique, "stages": plain}
        return own if self.out is None else {**own, "out": self.out}

    def check(self) -> None:
        """Refuse parts that do not go together, before any data are read."""
        for name, recipe in self.stages.items():
            try:
                recipe.check()
            except UsageError as error:
                raise UsageError(f"stage {name!r}: {error}") from None


def has_stages(name: str) -> bool:
    """Whether a recipe, by name or file, has stages."""
    return str(read_recipe_file(name).get("learns", "")) == "stages"


def load_stages(name: str, overrides: Sequence[str] = ()) -> Staged:
    """A recipe with stages by name or file. Overrides without `stages.NAME.` in front hold for all of them.

    Raises:
        UsageError: No such recipe, stage, key or value; a stage that builds on none before it.
    """
    tree = read_recipe_file(name)
    stages = tree.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise UsageError(f"recipe {name!r} learns stages but has none; list them under `stages`")
    own, common = _divided(overrides, tuple(stages))
    found: dict[str, AnyRecipe] = {}
    for stage in stages:
        if not _NAME.fullmatch(str(stage)):
            raise UsageError(f"stage {stage!r} of recipe {name!r} must be small letters, digits and underscores")
        mine = stage_tree(tree, stage)
        changes = overrides_of((*common, *own.get(stage, ())), mine)
        found[stage] = recipe_from(merged(mine, changes), owner=f"stage {stage!r} of recipe {name!r}")
        _check_references(stage, found[stage], tuple(found), tuple(stages))
    out = next((pair.removeprefix("out=") for pair in reversed(overrides) if pair.startswith("out=")), tree.get("out"))
    return Staged(str(tree.get("about", "")), str(tree.get("technique", "")), found, out)


def _divided(overrides: Sequence[str], stages: tuple[str, ...]) -> tuple[dict[str, list[str]], list[str]]:
    """Overrides of single stages by name, and those of all."""
    own: dict[str, list[str]] = {}
    common = []
    for pair in overrides:
        if not pair.startswith("stages."):
            if not pair.startswith("out="):
                common.append(pair)
            continue
        key, _, value = pair.removeprefix("stages.").partition("=")
        stage, dot, inside = key.partition(".")
        if stage not in stages:
            raise unknown_name("stage", stage, stages)
        if not dot:
            raise UsageError(f"override {pair!r} names no key of the stage; write stages.{stage}.training.steps=200")
        own.setdefault(stage, []).append(f"{inside}={value}")
    return own, common


def _check_references(stage: str, recipe: AnyRecipe, so_far: tuple[str, ...], stages: tuple[str, ...]) -> None:
    for other in sorted(references(recipe.dump())):
        if other not in stages:
            near = closest(other, stages)
            hint = f"did you mean {near!r}? " if near else ""
            raise UsageError(f"stage {stage!r} builds on {other!r}; {hint}the stages are {', '.join(stages)}")
        if other == stage or other not in so_far:
            raise UsageError(f"stage {stage!r} builds on {other!r}, which is not before it; change their order")


def train_stages(staged: Staged, name: str, *, resume: bool = False, watcher: Watcher | None = None) -> Finished:
    """Train all stages in order. With `resume`, those that are finished are left as they are.

    Args:
        staged: What to do.
        name: Name of the run, for its folder when the recipe has no `out`.
        resume: Go on in a folder that is there.
        watcher: Hears what happens, and which stage of how many it is.

    Raises:
        UsageError: A request that cannot be met; a finished stage that another recipe, other data or another earlier
            stage would not have come to: it and those after it are named, and nothing is used again silently. Found
            before any work, for all stages.
        RunError: The work failed.
        Stopped: A signal asked for it; the state is saved.
    """
    watcher = watcher or Watcher()
    staged.check()
    folder = Path(staged.out or f"runs/{name}").expanduser()
    images = Images()
    devices = [recipe.training.device for recipe in staged.stages.values()]
    with (
        joined(next((name for name in devices if name != "cpu"), "cpu")) as world,
        contextlib.ExitStack() as held,
    ):

        def prepare() -> None:
            _check_folder(folder, resume=resume)
            _foresee_all(staged, folder, images)
            files.make_folder(folder / STAGES)
            held.enter_context(RunLock(folder / STAGES))  # for all processes
            check_begun(staged.stages, folder, images)
            files.write_text(folder / STAGES_FILE, dump_tree(replace(staged, out=None).dump()))

        world.first_alone(prepare, f"begin in {folder}")
        return _train_all(staged, folder, images, watcher, world)


def _check_folder(folder: Path, *, resume: bool) -> None:
    if not resume and folder.is_dir() and not is_untouched(folder):
        raise UsageError(f"{folder} exists already; add --resume to go on with it, or choose another out=")
    if resume and not (folder / STAGES_FILE).is_file():
        raise UsageError(f"there is no run with stages to resume in {folder}; leave --resume out, or correct out=")


def _foresee_all(staged: Staged, folder: Path, images: Images) -> None:
    """Refuse what is known to fail later; a stage that has begun has what it needs of elsewhere."""
    for stage, recipe in staged.stages.items():
        if (folder_of(folder, stage, last=stage == tuple(staged.stages)[-1]) / RECIPE_FILE).is_file():
            continue
        try:
            foresee(recipe, images.of(recipe))
        except UsageError as error:
            raise UsageError(f"stage {stage!r}: {error}") from None


def _train_all(staged: Staged, folder: Path, images: Images, watcher: Watcher, world: World) -> Finished:
    """Every stage in turn; the first process alone looks at files and says to all what is to be done."""
    results: dict[str, str] = {}
    names, seconds = tuple(staged.stages), 0.0
    done: Finished | None = None
    for number, stage in enumerate(names, start=1):
        told = f"stage {number} of {len(names)}, {stage}"

        def look(stage: str = stage, number: int = number) -> _Next:
            place = place_of(staged.stages, stage, folder, results, images)
            refuse_stale(place, names[number - 1 :], folder)
            return _Next(place, begun=place.has_begun, finished=place.is_finished())

        todo = world.from_first(world.first_alone(look, f"find stage {stage!r}"))
        if todo.finished and world.first:
            watcher.note(f"{told}: finished before")
        if not todo.finished:
            if world.first:
                watcher.begins(told)
            done = _train_one(todo, watcher, world)
            seconds += done.seconds
        if world.first and (result := todo.place.result) is not None:
            results[stage] = result
    if done is None:
        recipe = load_recipe(str(folder / RECIPE_FILE))
        return Finished(folder, recipe.training.steps, 0.0, float("nan"), world.first)
    return replace(done, seconds=seconds)


@dataclass(frozen=True)
class _Next:
    """A stage, and how far it has come."""

    place: Place
    begun: bool
    finished: bool


def _train_one(todo: _Next, watcher: Watcher, world: World) -> Finished:
    place = todo.place

    def record_begin() -> None:
        if place.was_finished:
            check_resumable(place.folder)
        place.record(finished=False)

    world.first_alone(record_begin, f"begin stage {place.name!r}")
    done = train(place.recipe, place.name, resume=todo.begun, watcher=watcher)
    world.first_alone(lambda: place.record(finished=True), f"end stage {place.name!r}")
    return done
