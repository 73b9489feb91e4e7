"""Stages: recipes that build on one another, trained in order, each a run of its own; the last one is the run.

`stage:NAME` in place of a run's folder names an earlier stage. All that is beside `stages` holds for each. Earlier
stages live in `stages/NAME` of the run's folder. The last takes along what it needs of them, so that the folder is a
model like any other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from suffuse.base import files
from suffuse.base.errors import UsageError, closest, unknown_name
from suffuse.models.pretrained import WEIGHTS_FILE
from suffuse.training.lock import RunLock
from suffuse.training.recipe_files import (
    Tree,
    dump_tree,
    load_recipe,
    merged,
    overrides_of,
    read_recipe_file,
    recipe_from,
)
from suffuse.training.recipes import AnyRecipe
from suffuse.training.run import Finished, Watcher, train
from suffuse.training.run_files import RECIPE_FILE, STAGE_FILE, STAGES, STAGES_FILE

__all__ = ["Staged", "has_stages", "load_stages", "train_stages"]

_VERSION = 1
_REFERENCE = "stage:"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Of a staged recipe: what is not laid under every stage.
_OWN = ("learns", "about", "technique", "stages", "out")


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
    shared = {key: value for key, value in tree.items() if key not in _OWN}
    found: dict[str, AnyRecipe] = {}
    for stage, fields in stages.items():
        if not _NAME.fullmatch(str(stage)):
            raise UsageError(f"stage {stage!r} of recipe {name!r} must be small letters, digits and underscores")
        found[stage] = _stage(name, stage, shared, dict(fields or {}), (*common, *own.get(stage, ())))
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


def _stage(recipe: str, stage: str, shared: Tree, fields: Tree, overrides: Sequence[str]) -> AnyRecipe:
    base = fields.pop("base", None)
    if base is not None:
        shared = merged(read_recipe_file(str(base)), shared)
    tree = merged(shared, fields)
    owner = f"stage {stage!r} of recipe {recipe!r}"
    return recipe_from(merged(tree, overrides_of(overrides, tree)), owner=owner)


def _references(plain: Any) -> set[str]:  # Any: JSON values
    """Names of the stages that a recipe builds on."""
    if isinstance(plain, str):
        return {plain.removeprefix(_REFERENCE)} if plain.startswith(_REFERENCE) else set()
    inside = plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ()
    return set().union(*map(_references, inside))


def _check_references(stage: str, recipe: AnyRecipe, so_far: tuple[str, ...], stages: tuple[str, ...]) -> None:
    for other in sorted(_references(recipe.dump())):
        if other not in stages:
            near = closest(other, stages)
            hint = f"did you mean {near!r}? " if near else ""
            raise UsageError(f"stage {stage!r} builds on {other!r}; {hint}the stages are {', '.join(stages)}")
        if other == stage or other not in so_far:
            raise UsageError(f"stage {stage!r} builds on {other!r}, which is not before it; change their order")


def _placed(plain: Any, folder: Path) -> Any:  # Any: JSON values
    """A recipe as plain data with the folders of the stages in place of their names."""
    if isinstance(plain, str) and plain.startswith(_REFERENCE):
        return str(_folder(folder, plain.removeprefix(_REFERENCE), last=False))
    if isinstance(plain, dict):
        return {key: _placed(value, folder) for key, value in plain.items()}
    return [_placed(item, folder) for item in plain] if isinstance(plain, list) else plain


def _folder(folder: Path, stage: str, *, last: bool) -> Path:
    return folder if last else folder / STAGES / stage


@dataclass(frozen=True)
class _Place:
    """A stage on disk.

    Attributes:
        name: Of the stage.
        recipe: With the folders of earlier stages filled in.
        folder: Of its run.
        key: Hash of all that decides it: recipe, data, and what the earlier stages came to.
    """

    name: str
    recipe: AnyRecipe
    folder: Path
    key: str

    @property
    def _file(self) -> Path:
        return self.folder / STAGE_FILE

    def record(self, *, finished: bool) -> None:
        """Write down what is being trained, or was."""
        result = _hash_of(self.folder / WEIGHTS_FILE) if finished else None
        files.make_folder(self.folder)
        files.write_json(self._file, {"format_version": _VERSION, "key": self.key, "result": result})

    def read(self) -> Mapping[str, Any] | None:  # Any: JSON values
        """What was written down; None for a stage that has not begun."""
        return files.read_json(self._file) if self._file.is_file() else None

    @property
    def result(self) -> str:
        """Hash of the weights that it came to."""
        return _hash_of(self.folder / WEIGHTS_FILE)


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def train_stages(staged: Staged, name: str, *, resume: bool = False, watcher: Watcher | None = None) -> Finished:
    """Train all stages in order. With `resume`, those that are finished are left as they are.

    Args:
        staged: What to do.
        name: Name of the run, for its folder when the recipe has no `out`.
        resume: Go on in a folder that is there.
        watcher: Hears what happens, and which stage of how many it is.

    Raises:
        UsageError: A request that cannot be met; a finished stage that another recipe, other data or another earlier
            stage would not have come to: it and those after it are named, and nothing is used again silently.
        RunError: The work failed.
        Stopped: A signal asked for it; the state is saved.
    """
    watcher = watcher or Watcher()
    staged.check()
    folder = Path(staged.out or f"runs/{name}").expanduser()
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} exists already; add --resume to go on with it, or choose another out=")
    if resume and not (folder / STAGES_FILE).is_file():
        raise UsageError(f"there is no run with stages to resume in {folder}; leave --resume out, or correct out=")
    files.make_folder(folder / STAGES)
    with RunLock(folder / STAGES):
        files.write_text(folder / STAGES_FILE, dump_tree(replace(staged, out=None).dump()))
        return _train_all(staged, folder, watcher)


def _train_all(staged: Staged, folder: Path, watcher: Watcher) -> Finished:
    results: dict[str, str] = {}
    prints: dict[str, str] = {}
    names, seconds = tuple(staged.stages), 0.0
    done: Finished | None = None
    for number, (stage, recipe) in enumerate(staged.stages.items(), start=1):
        place = _place(stage, recipe, folder, results, prints, last=number == len(names))
        told = f"stage {number} of {len(names)}, {stage}"
        if _is_finished(place, names[number - 1 :]):
            watcher.note(f"{told}: finished before")
        else:
            watcher.begins(told)
            done = _train_one(place, watcher)
            seconds += done.seconds
        results[stage] = place.result
    if done is None:
        recipe = load_recipe(str(folder / RECIPE_FILE))
        return Finished(folder, recipe.training.steps, 0.0, float("nan"))
    return replace(done, seconds=seconds)


def _place(
    stage: str, recipe: AnyRecipe, folder: Path, results: Mapping[str, str], prints: dict[str, str], *, last: bool
) -> _Place:
    own = _folder(folder, stage, last=last)
    plain = {key: value for key, value in recipe.dump().items() if key not in ("about", "out", "evaluation")}
    data = json.dumps(recipe.data.dump(), sort_keys=True)
    if data not in prints:
        prints[data] = recipe.data.load().fingerprint
    built_on = {name: results[name] for name in sorted(_references(plain))}
    key = hashlib.sha256(json.dumps([plain, prints[data], built_on], sort_keys=True).encode()).hexdigest()
    placed = recipe_from({**_placed(recipe.dump(), folder), "out": str(own)}, owner=f"stage {stage!r}")
    return _Place(stage, placed, own, key)


def _is_finished(place: _Place, from_here: tuple[str, ...]) -> bool:
    """Whether a stage is done as it shall be.

    Raises:
        UsageError: It was begun or finished as something else.
    """
    recorded = place.read()
    if recorded is None:
        return False
    if recorded["key"] != place.key or (recorded["result"] is not None and recorded["result"] != place.result):
        stale = ", ".join(repr(name) for name in from_here)
        raise UsageError(
            f"stage {place.name!r} in {place.folder} was trained with another recipe, other data or another earlier "
            f"stage than are asked for now, so that {stale} would be stale; ask for what was trained, remove their "
            "folders, or choose another out="
        )
    return recorded["result"] is not None


def _train_one(place: _Place, watcher: Watcher) -> Finished:
    begun = (place.folder / RECIPE_FILE).is_file()
    place.record(finished=False)
    done = train(place.recipe, place.name, resume=begun, watcher=watcher)
    place.record(finished=True)
    return done
