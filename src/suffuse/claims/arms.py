"""Arms at work: what identifies a trained model, and how one is trained once and measured."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import math
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import suffuse
from suffuse.base import files
from suffuse.base.errors import RunError
from suffuse.base.hardware import processor
from suffuse.base.part import Part
from suffuse.base.weights import read_safetensors
from suffuse.claims.exact import ExactPart
from suffuse.claims.fingerprint import digest, minimal, modules_of, source_hash
from suffuse.claims.judging import judge_of_data, load_data
from suffuse.claims.measures import Bench, MeasurePart, Reconstruction
from suffuse.claims.measures.profiles import LOG_EVERY
from suffuse.claims.protocol import Arm, Experiment
from suffuse.models.config import ModelConfig
from suffuse.models.pretrained import WEIGHTS_FILE, load_codec
from suffuse.tasks.runs import open_run
from suffuse.training.codec_recipe import CodecRecipe
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import load_recipe, recipe_from
from suffuse.training.recipes import AnyRecipe
from suffuse.training.run import RECIPE_FILE, train
from suffuse.training.settings import OptimiserSettings, TrainingSettings
from suffuse.training.signals import Stop
from suffuse.training.world import choose_device

__all__ = ["Cell", "Work", "exact_identity", "measure_identity", "model_folder", "model_identity", "recipe_of", "work"]

_DONE = "arm.json"
_RESULTS = "src/suffuse/claims/results"
_VERSION = 1
# Of a recipe: what cannot change the trained weights.
# What decides with which weights training begins, and who learns: no part of a recipe names these modules.
_BEGINNINGS = ("suffuse.training.first_stages", "suffuse.training.players")
_ASIDE = ("about", "technique", "out", "sampling", "evaluation")
_ASIDE_TRAINING = (
    "minutes",
    "device",
    "log_every",
    "sample_every",
    "samples",
    "checkpoint_every",
    "keep",
    "tensorboard",
    "seed",
)
# What `_defaults` was when the first figures were recorded: as long as it is that, it is no part of a model's identity.
_DEFAULTS = "5e198a9b1de59cf9"

Cell = dict[str, float]
"""Values of one arm and seed, by name."""


def recipe_of(
    experiment: Experiment,
    arm: Arm,
    seed: int,
    data: Path | None = None,
    place: Callable[[Arm], str] | None = None,
) -> AnyRecipe:
    """The recipe that an arm trains with a seed.

    Args:
        experiment: Whose shared overrides come first.
        arm: Which.
        seed: Of weights, data order and noise: the same for all arms, so that they are paired.
        data: File of the data, for experiments that ask for one.
        place: Folder of the run of an arm that this one builds on; a name that says what it is when None.
    """
    before = experiment.before(arm)
    after = "" if before is None else (place or _named(experiment, seed))(before)
    where = () if data is None else (f"data={data}",)
    overrides = [override.replace("{after}", after) for override in experiment.overrides_of(arm)]
    recipe = load_recipe(arm.recipe, (*where, *overrides))
    settings = recipe.training.replace(seed=seed, log_every=LOG_EVERY, sample_every=0, keep=1, tensorboard=False)
    return recipe.replace(training=settings)


def _named(experiment: Experiment, seed: int) -> Callable[[Arm], str]:
    """Hash of what an arm trains, for places that have no store."""
    return lambda arm: digest(model_identity(recipe_of(experiment, arm, seed)))


def _names_alone(plain: Any) -> Any:  # Any: JSON values
    """Folders of runs that a recipe builds on, without their place: in a store the name is the model's key."""
    if isinstance(plain, dict):
        return {
            key: Path(v).name if key == "run" and isinstance(v, str) else _names_alone(v) for key, v in plain.items()
        }
    return [_names_alone(item) for item in plain] if isinstance(plain, list) else plain


def _plain(recipe: AnyRecipe) -> dict[str, Any]:  # Any: JSON values
    """What decides the weights, beside the seed; of files the name alone, not the place."""
    found: dict[str, Any] = minimal(recipe)  # Any: JSON values
    for name in _ASIDE:
        found.pop(name, None)
    for name in _ASIDE_TRAINING:
        found["training"].pop(name, None)
    if "path" in found["data"]:
        found["data"]["path"] = Path(found["data"]["path"]).name
    for name in ("objective", "init", "codec", "conditioner"):
        if name in found:
            found[name] = _names_alone(found[name])
    return found


def model_identity(recipe: AnyRecipe) -> dict[str, str]:
    """Hashes of the recipe and of the source that it reaches; neither knows the seed."""
    parts = [getattr(recipe, name) for name in type(recipe).model_fields if name not in _ASIDE]
    roots = modules_of(*parts) | {"suffuse.training.trainer", "suffuse.data.loader", "suffuse.models.denoiser"}
    changed = {} if _defaults() == _DEFAULTS else {"defaults": _defaults()}
    return {"recipe": digest(_plain(recipe)), "source": source_hash(roots, _BEGINNINGS), **changed}


def _defaults() -> str:
    """Hash of the defaults that recipes leave unsaid and whose module is no part of the source that counts."""
    kept = OptimiserSettings().dump() | {
        name: value for name, value in TrainingSettings().dump().items() if name not in _ASIDE_TRAINING
    }
    return digest([kept, Recipe.model_fields["sigma_data"].default, ModelConfig.model_fields["sigma_data"].default])


def _part_identity(part: Part, extra: Sequence[str]) -> dict[str, str]:
    return {"part": digest(minimal(part)), "source": source_hash(modules_of(part), extra)}


def measure_identity(measure: MeasurePart | Reconstruction) -> dict[str, str]:
    """Hashes of a measure and of the source that computes it."""
    return _part_identity(measure, measure.source)


def exact_identity(part: ExactPart) -> dict[str, str]:
    """Hashes of a computation and of the source that does it."""
    return _part_identity(part, ())


@dataclass(frozen=True)
class Work:
    """One arm with one seed: what is trained, where, and what is measured on it; or what is computed.

    Attributes:
        key: Hash of all that decides the model.
        label: For people.
        store: Folder of models and cells.
        recipe: As plain data; None for an exact computation.
        measures: Key of a cell -> what to measure.
        exact: The computation, and its seed.
        threads: Threads of the processor: the same for all arms, because sums depend on them.
        needs: Key of the model that it builds on; None for most.
        packages: Optional packages that the computation uses.
    """

    key: str
    label: str
    store: Path
    recipe: dict[str, Any] | None  # Any: JSON values
    measures: dict[str, MeasurePart | Reconstruction]
    exact: tuple[ExactPart, int] | None = None
    threads: int | None = None
    needs: str | None = None
    packages: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Keys of the cells that are not there yet."""
        keys = (self.key,) if self.exact is not None else tuple(self.measures)
        return tuple(key for key in keys if not _cell(self.store, key).is_file())

    def read(self) -> dict[str, Cell]:
        """Key of a cell -> its values; all must be there."""
        keys = (self.key,) if self.exact is not None else tuple(self.measures)
        return {key: dict(files.read_json(_cell(self.store, key))["values"]) for key in keys}

    def made(self) -> list[dict[str, str]]:
        """When, from which source and on what its cells were made."""
        keys = (self.key,) if self.exact is not None else tuple(self.measures)
        return [dict(files.read_json(_cell(self.store, key))["made"]) for key in keys]

    def trained(self) -> dict[str, Any]:  # Any: JSON values
        """What training cost: steps, seconds, parameters."""
        return files.read_json(model_folder(self.store, self.key) / _DONE)


def _made_here(packages: Sequence[str] = ()) -> dict[str, str]:
    """When, from which source and on what a figure is made; with versions of optional packages that it needed."""
    gpu = torch.cuda.is_available()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "hardware": torch.cuda.get_device_name() if gpu else processor(),
        "threads": str(torch.get_num_threads()),
        "suffuse": suffuse.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


@functools.lru_cache(maxsize=1)
def _commit() -> str:
    """The commit of the checkout, marked when files differ from it; the version where there is no checkout."""
    place = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*place, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        # Results that this very check has written are no changes to what computes them.
        others = ["--", ":/", f":(exclude,top){_RESULTS}"]
        told = [*place, "status", "--porcelain", "-uno", *others]
        changed = subprocess.run(told, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"suffuse {suffuse.__version__}"
    return head.stdout.strip() + (" and changes" if changed.stdout.strip() else "")


def _cell(store: Path, key: str) -> Path:
    return store / "cells" / f"{key}.json"


def model_folder(store: Path, key: str) -> Path:
    """Where a trained model is."""
    return store / "models" / key


def work(item: Work) -> str:
    """Train what is not trained, measure what is not measured; both survive a kill. Returns the label.

    Raises:
        Stopped: A signal asked for it; a half-trained model goes on next time.
    """
    if item.threads is not None:
        torch.set_num_threads(item.threads)
    if not item.missing:
        return item.label
    files.make_folder(item.store / "cells")
    if item.exact is not None:
        part, seed = item.exact
        with Stop() as stop, stop.interruptible():
            _write(item, item.key, part.of(seed))
        return item.label
    recipe = recipe_from(item.recipe or {}, item.label)
    folder = model_folder(item.store, item.key)
    if not (folder / _DONE).is_file():
        _train(recipe, folder, item.label)
    with Stop() as stop, stop.interruptible():
        for key, values in _measured(item, recipe, folder):
            _write(item, key, values)
    return item.label


def _measured(item: Work, recipe: AnyRecipe, folder: Path) -> Iterator[tuple[str, Cell]]:
    """Key and values of every cell that is missing."""
    data, device = load_data(recipe.data), recipe.training.device
    if isinstance(recipe, CodecRecipe):
        codec = load_codec(folder).to(choose_device(device))
    else:
        run = open_run(folder, device=device)
        bench = Bench(run, run.training_data(recipe.data), lambda: judge_of_data(recipe.data, run.model.device))
    for key in item.missing:
        measure = item.measures[key]
        yield key, measure.of(codec, data) if isinstance(measure, Reconstruction) else measure.of(bench)


def _write(item: Work, key: str, values: Cell) -> None:
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise RunError(f"{item.label}: {', '.join(broken)} is not a finite number; the arm cannot be compared")
    made = _made_here(item.packages)
    cell = {"format_version": _VERSION, "label": item.label, "model": item.key, "values": values, "made": made}
    files.write_json(_cell(item.store, key), cell)


def _train(recipe: AnyRecipe, folder: Path, label: str) -> None:
    """Train to the end, from where an earlier try was stopped; checkpoints are of no use afterwards."""
    resume = (folder / RECIPE_FILE).is_file()
    if folder.is_dir() and not resume:
        files.discard(folder)
    began = time.perf_counter()
    finished = train(recipe.replace(out=str(folder)), label, resume=resume)
    facts = {
        "format_version": _VERSION,
        "label": label,
        "steps": finished.step,
        "images": finished.step * recipe.training.batch,
        "seconds": time.perf_counter() - began,
        "resumed": resume,
        "parameters": sum(tensor.numel() for tensor in read_safetensors(folder / WEIGHTS_FILE).values()),
        "made": _made_here(),
    }
    files.write_json(folder / _DONE, facts)
    if (folder / "checkpoints").is_dir():
        files.discard(folder / "checkpoints")
