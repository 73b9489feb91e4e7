"""Where stages lie and what decides each: whether one is finished, can go on, or is stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suffuse.base import files
from suffuse.base.errors import UsageError
from suffuse.data import Dataset
from suffuse.models.pretrained import WEIGHTS_FILE
from suffuse.training.recipe_files import recipe_from
from suffuse.training.recipes import AnyRecipe
from suffuse.training.run_files import RECIPE_FILE, STAGE_FILE, STAGES, STAGES_FILE

__all__ = [
    "REFERENCE",
    "Images",
    "Place",
    "check_begun",
    "folder_of",
    "is_untouched",
    "place_of",
    "references",
    "refuse_stale",
]

REFERENCE = "stage:"
"""Before the name of an earlier stage, in place of a run's folder."""
_VERSION = 2
# What a run takes anew when it goes on: nothing of it changes the weights that a stage has come to.
_ASIDE = ("about", "technique", "out", "evaluation")
_ASIDE_TRAINING = ("device", "log_every", "sample_every", "samples", "checkpoint_every", "keep", "tensorboard")
# Of a stage on which no other builds: it may be trained longer, and sampled in another way.
_ASIDE_LAST = ("sampling",)
_ASIDE_LAST_TRAINING = ("steps", "minutes")

Tree = dict[str, Any]  # Any: JSON values


@dataclass
class Images:
    """Data of recipes, each read once."""

    found: dict[str, Dataset] = field(default_factory=dict)

    def of(self, recipe: AnyRecipe) -> Dataset:
        """The data of a recipe as they come, before any codec."""
        name = json.dumps(recipe.data.dump(), sort_keys=True)
        if name not in self.found:
            self.found[name] = recipe.data.load()
        return self.found[name]


@dataclass(frozen=True)
class Place:
    """A stage on disk.

    Attributes:
        name: Of the stage.
        recipe: With the folders of earlier stages filled in.
        folder: Of its run.
        key: Hash of all that decides its weights: recipe, data, and what it builds on came to.
        settings: Hash of the whole recipe, with what a run takes anew when it goes on.
        folders: Hashes of the weights in the folders beside the run that it was begun from.
        shared: Whether another stage builds on it.
    """

    name: str
    recipe: AnyRecipe
    folder: Path
    key: str
    settings: str
    folders: Mapping[str, str]
    shared: bool

    @property
    def _file(self) -> Path:
        return self.folder / STAGE_FILE

    @property
    def has_begun(self) -> bool:
        """Whether its training has got so far that it can go on: what was refused before has not."""
        return (self.folder / RECIPE_FILE).is_file()

    @property
    def result(self) -> str | None:
        """Hash of the weights that it came to; None where there are none."""
        path = self.folder / WEIGHTS_FILE
        return _hash_of(path) if path.is_file() else None

    def record(self, *, finished: bool) -> None:
        """Write down what is being trained, or was."""
        result = self.result if finished else None
        files.make_folder(self.folder)
        own = {"key": self.key, "settings": self.settings, "folders": dict(self.folders), "result": result}
        files.write_json(self._file, {"format_version": _VERSION, **own})

    def _read(self) -> Mapping[str, Any] | None:  # Any: JSON values
        return _recorded(self.folder)

    @property
    def was_finished(self) -> bool:
        """Whether it has come to its end, by whatever recipe."""
        recorded = self._read()
        return recorded is not None and recorded["result"] is not None

    def is_finished(self) -> bool:
        """Whether it is done as it shall be; of the last stage settings that change no weight are part of that."""
        recorded = self._read()
        return self.was_finished and recorded is not None and (self.shared or recorded["settings"] == self.settings)

    @property
    def is_stale(self) -> bool:
        """Whether it was begun or finished as something else, or its weights were changed since."""
        recorded = self._read()
        if recorded is None:
            return False
        return recorded["key"] != self.key or (recorded["result"] is not None and recorded["result"] != self.result)


def is_untouched(folder: Path) -> bool:
    """Whether no stage in a folder has begun: what was refused there may be asked for anew."""
    if any(entry.name not in (STAGES, STAGES_FILE, STAGE_FILE, "parts", ".lock") for entry in folder.iterdir()):
        return False
    stages = folder / STAGES
    return not stages.is_dir() or not any((place / RECIPE_FILE).is_file() for place in stages.iterdir())


def references(plain: Any) -> set[str]:  # Any: JSON values
    """Names of the stages that a recipe builds on."""
    if isinstance(plain, str):
        return {plain.removeprefix(REFERENCE)} if plain.startswith(REFERENCE) else set()
    inside = plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ()
    return set().union(*map(references, inside))


def place_of(
    stages: Mapping[str, AnyRecipe], stage: str, folder: Path, results: Mapping[str, str], images: Images
) -> Place:
    """A stage on disk.

    Args:
        stages: All recipes by name, in order.
        stage: Which.
        folder: Of the whole run; the last stage's own.
        results: What the stages that it builds on came to.
        images: Data that were read before.
    """
    recipe = stages[stage]
    own = folder_of(folder, stage, last=stage == tuple(stages)[-1])
    plain, built_on = recipe.dump(), {}
    for name in sorted(references(plain)):
        built_on[name] = results[name]
    folders = _folders(plain, (_recorded(own) or {}).get("folders", {}))
    asked = [images.of(recipe).fingerprint, built_on, folders]
    shared = any(stage in references(other.dump()) for other in stages.values())
    key = _digest([_deciding(plain, shared=shared), *asked])
    settings = _digest([{name: value for name, value in plain.items() if name not in _ASIDE}, *asked])
    placed = recipe_from({**_placed(plain, folder), "out": str(own)}, owner=f"stage {stage!r}")
    return Place(stage, placed, own, key, settings, folders, shared)


def check_begun(stages: Mapping[str, AnyRecipe], folder: Path, images: Images) -> None:
    """Refuse stages that are there and not what is asked for, before any is trained.

    Raises:
        UsageError: Names the stage and those that would be stale with it.
    """
    names = tuple(stages)
    results: dict[str, str] = {}
    for number, stage in enumerate(names):
        missing = sorted(references(stages[stage].dump()) - results.keys())
        if missing:
            _check_alone(folder, stage, missing[0], last=stage == names[-1])
            continue
        place = place_of(stages, stage, folder, results, images)
        refuse_stale(place, names[number:], folder)
        if place.was_finished and place.result is not None:
            results[stage] = place.result


def refuse_stale(place: Place, from_here: tuple[str, ...], folder: Path) -> None:
    """Refuse to use a stage as what it is not.

    Args:
        place: The stage.
        from_here: Its name and those of the stages after it.
        folder: Of the whole run.

    Raises:
        UsageError: It was begun or finished as something else.
    """
    if place.was_finished and place.result is None:
        raise UsageError(
            f"stage {place.name!r} is finished, but its weights {place.folder / WEIGHTS_FILE} are gone; bring them "
            "back, or choose another out="
        )
    if place.is_stale:
        raise UsageError(
            f"stage {place.name!r} in {place.folder} was trained with another recipe, other data or another earlier "
            f"stage than are asked for now, so that {', '.join(map(repr, from_here))} would be stale; ask for what was "
            f"trained, choose another out=, or train {place.name!r} alone (RECIPE:{place.name}) from the folders in "
            f"{folder / STAGES}"
        )


def _check_alone(folder: Path, stage: str, missing: str, *, last: bool) -> None:
    """Refuse a stage that is finished while one that it was built on is not: that one might come to something else."""
    place = folder_of(folder, stage, last=last)
    if (place / RECIPE_FILE).is_file() and (place / WEIGHTS_FILE).is_file():
        raise UsageError(
            f"stage {stage!r} in {place} was trained on stage {missing!r}, which is not finished or not there any "
            f"more; bring {folder / STAGES / missing} back, or choose another out="
        )


def _deciding(plain: Tree, *, shared: bool) -> Tree:
    """Of a recipe what decides its weights; of one on which others build, also how it is sampled."""
    aside = _ASIDE if shared else (*_ASIDE, *_ASIDE_LAST)
    of_training = _ASIDE_TRAINING if shared else (*_ASIDE_TRAINING, *_ASIDE_LAST_TRAINING)
    kept = {name: value for name, value in plain.items() if name not in aside}
    return {**kept, "training": {name: value for name, value in plain["training"].items() if name not in of_training}}


def _recorded(folder: Path) -> Mapping[str, Any] | None:  # Any: JSON values
    """What was written down of a stage that has begun."""
    path = folder / STAGE_FILE
    return files.read_json(path) if path.is_file() and (folder / RECIPE_FILE).is_file() else None


def _folders(plain: Tree, recorded: Mapping[str, str]) -> dict[str, str]:
    """Hashes of the weights in all folders that a recipe names beside its data: runs, text models.

    Args:
        plain: The recipe.
        recorded: Those of when the stage began, which may be gone since: it has what it needs of them.
    """
    found: dict[str, str] = {}

    def walk(value: Any) -> None:  # Any: JSON values
        if isinstance(value, dict):
            for inside in value.values():
                walk(inside)
        elif isinstance(value, list):
            for inside in value:
                walk(inside)
        elif isinstance(value, str) and (weights := _weights_in(value)):
            found[value] = _digest([[path.name, _hash_of(path)] for path in weights])
        elif isinstance(value, str) and value in recorded:
            found[value] = recorded[value]

    walk({name: value for name, value in plain.items() if name not in (*_ASIDE, "data")})
    return found


def _weights_in(text: str) -> list[Path]:
    """Files of weights in the folder that a text names, if it names one."""
    try:
        return sorted(Path(text).expanduser().glob("*.safetensors")) if text else []
    except (OSError, RuntimeError, ValueError):  # too long for a name, an unknown user, a zero byte: no folder
        return []


def _placed(plain: Any, folder: Path) -> Any:  # Any: JSON values
    """A recipe as plain data with the folders of the stages in place of their names."""
    if isinstance(plain, str) and plain.startswith(REFERENCE):
        return str(folder_of(folder, plain.removeprefix(REFERENCE), last=False))
    if isinstance(plain, dict):
        return {key: _placed(value, folder) for key, value in plain.items()}
    return [_placed(item, folder) for item in plain] if isinstance(plain, list) else plain


def folder_of(folder: Path, stage: str, *, last: bool) -> Path:
    """Where a stage of a run is: the last one in the run's own folder."""
    return folder if last else folder / STAGES / stage


def _digest(plain: Any) -> str:  # Any: JSON values
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
