"""Verify: run the experiments of claims, each model once, and hold the figures against the criteria."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from suffuse.base.errors import UsageError
from suffuse.claims.arms import (
    Cell,
    Work,
    exact_identity,
    measure_identity,
    model_folder,
    model_identity,
    recipe_of,
)
from suffuse.claims.fingerprint import digest
from suffuse.claims.judging import floor_of, judge_of_data, load_data
from suffuse.claims.measures import Distance, MeasurePart, Reconstruction
from suffuse.claims.pool import alone, run_all
from suffuse.claims.protocol import Arm, Claim, ExactArm, Experiment, Tier, Values
from suffuse.data.part import DataPart
from suffuse.tasks.judge import Judge
from suffuse.training.recipe import Recipe
from suffuse.training.recipes import AnyRecipe
from suffuse.training.run import check_recipe

__all__ = ["Checked", "Settings", "default_jobs", "on_gpu", "verify"]


@dataclass(frozen=True)
class Settings:
    """How a check is run; none of it changes what is measured.

    Attributes:
        store: Folder of models and cells, shared by all claims.
        data: File of the data, for tiers that need one.
        device: auto, cpu, cuda or cuda:N.
        jobs: Processes side by side.
        threads: Threads of each; None leaves torch's choice.
        trial: Overrides of a trial run: every arm is started with these and one seed, and its figures mean nothing.
    """

    store: Path = Path("runs/ledger")
    data: Path | None = None
    device: str = "auto"
    jobs: int = 1
    threads: int | None = None
    trial: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Checked:
    """A claim whose experiment has been run.

    Attributes:
        claim: Which.
        tier: Which experiment of it.
        experiment: As it was run.
        values: All values.
        costs: Arm -> what its models cost in the mean: steps, images, parameters, and seconds of those that were
            trained in one go; empty for exact arms.
        floors: Samples -> what so many real images score; empty where no distance is measured.
        made: Name of a fact (date, commit, hardware, versions) -> all that it was while the figures were made.
        data: Fingerprint of the data, and hash of the features that judge samples of it.
        fresh: Models and computations that had to be made in this call; the others were there.
    """

    claim: Claim
    tier: Tier
    experiment: Experiment
    values: Values
    costs: Mapping[str, Mapping[str, float]]
    floors: Mapping[int, float]
    made: Mapping[str, tuple[str, ...]]
    data: Mapping[str, str]
    fresh: int


def on_gpu(device: str) -> bool:
    """Whether a device of that name is a GPU here."""
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def default_jobs(device: str) -> int:
    """As many processes as the machine has cores, on a CPU; one on a GPU."""
    return 1 if on_gpu(device) else len(os.sched_getaffinity(0))


def verify(
    claims: Sequence[Claim],
    tier: Tier,
    settings: Settings,
    *,
    note: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> list[Checked]:
    """Run a tier of some claims. Models and figures that are there already are not made again.

    Args:
        claims: Those without this tier are left out.
        tier: Which experiments.
        settings: Where and how.
        note: Told what is going on.
        progress: Told (finished, altogether, text) as arms finish.

    Raises:
        UsageError: No claim has the tier, the data are missing, or the tier's device is; before any work.
        Stopped: A signal asked for it; the same call goes on where this one stopped.
    """
    chosen = [claim for claim in claims if tier in claim.experiments]
    if not chosen:
        raise UsageError(
            f"none of {', '.join(claim.key for claim in claims)} has a tier {tier!r}; see `suffuse list claims`"
        )
    _check_device(tier, settings)
    experiments = {claim.key: _tried(claim.experiments[tier], settings) for claim in chosen}
    plan = _Plan(settings, note)
    for experiment in experiments.values():
        plan.check(experiment)
    for claim in chosen:
        plan.add(claim.key, experiments[claim.key])
    items = plan.items()
    with alone(settings.store):
        waiting = [item for item in items if item.missing]
        note(f"{len(items)} arms with their seeds, {len(items) - len(waiting)} of them there already")
        run_all(waiting, settings.jobs, _Progress(len(waiting), progress))
    return [
        Checked(
            claim,
            tier,
            experiments[claim.key],
            plan.values(claim.key, experiments[claim.key]),
            plan.costs(claim.key, experiments[claim.key]),
            plan.floors(experiments[claim.key]),
            plan.made(claim.key, experiments[claim.key]),
            plan.identified(experiments[claim.key]),
            len(waiting),
        )
        for claim in chosen
    ]


def _check_device(tier: Tier, settings: Settings) -> None:
    if tier in ("gpu", "full") and settings.trial is None and not torch.cuda.is_available():
        raise UsageError(
            f"tier {tier!r} needs a GPU and there is none here, so its figures are missing; --trial starts every arm "
            "for a few steps on any machine"
        )


def _tried(experiment: Experiment, settings: Settings) -> Experiment:
    """The experiment itself, or a trial of it: one seed, few steps, small measures."""
    if settings.trial is None:
        return experiment
    arms = tuple(
        arm.replace(seeds=None, overrides=(*arm.overrides, *settings.trial)) if isinstance(arm, Arm) else arm
        for arm in experiment.arms
    )
    measures = tuple(measure.smaller() for measure in experiment.measures)
    return experiment.replace(arms=arms, measures=measures, seeds=experiment.seeds[:1])


class _Progress:
    """Counts finished arms and guesses the time left."""

    def __init__(self, total: int, progress: Callable[[int, int, str], None]) -> None:
        self.total, self.progress = total, progress
        self.done, self.began = 0, time.perf_counter()

    def __call__(self, label: str) -> None:
        self.done += 1
        left = (time.perf_counter() - self.began) / self.done * (self.total - self.done)
        self.progress(self.done, self.total, f"{label}; {left / 60:.0f} min left" if self.done < self.total else label)


@dataclass
class _Plan:
    """All work of a call: an arm that several claims share is one item."""

    settings: Settings
    note: Callable[[str], None]
    works: dict[str, Work] = field(default_factory=dict)
    # (claim, arm, seed) -> key of the model or computation, and the keys of its cells
    places: dict[tuple[str, str, int], tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    told: set[DataPart] = field(default_factory=set)

    def check(self, experiment: Experiment) -> None:
        """Refuse what cannot be run, before anything is read or trained."""
        absent = [name for name in experiment.packages if importlib.util.find_spec(name) is None]
        if absent:
            raise UsageError(
                f"{experiment.arms[0].name!r} and the other arms of its claim need {', '.join(absent)}, which is not "
                f"installed; pip install 'suffuse[{','.join(absent)}]', or name the claims that shall be checked"
            )
        for arm in experiment.arms:
            if isinstance(arm, Arm):
                check_recipe(self._recipe(experiment, arm, experiment.seeds_of(arm)[0]))

    def add(self, claim: str, experiment: Experiment) -> None:
        """Plan a claim's experiment."""
        for arm in experiment.arms:
            for seed in experiment.seeds_of(arm):
                key, cells = (
                    self._exact(experiment, arm, seed)
                    if isinstance(arm, ExactArm)
                    else self._trained(experiment, arm, seed)
                )
                self.places[claim, arm.name, seed] = key, cells

    def _exact(self, experiment: Experiment, arm: ExactArm, seed: int) -> tuple[str, tuple[str, ...]]:
        versions = [importlib.metadata.version(name) for name in experiment.packages]
        key = digest([exact_identity(arm.exact), seed, *versions])
        item = Work(
            key,
            f"{arm.name} seed {seed}",
            self.settings.store,
            None,
            {},
            (arm.exact, seed),
            self.settings.threads,
            packages=experiment.packages,
        )
        self.works.setdefault(key, item)
        return key, (key,)

    def _trained(self, experiment: Experiment, arm: Arm, seed: int) -> tuple[str, tuple[str, ...]]:
        recipe = self._recipe(experiment, arm, seed)
        key, before = self._key(recipe, seed), experiment.before(arm)
        needs = None if before is None else self._key(self._recipe(experiment, before, seed), seed)
        # What makes no samples is measured in its own way.
        wanted = experiment.measures if isinstance(recipe, Recipe) else (Reconstruction(),)
        measures = {digest([key, *self._judged(measure, recipe)]): measure for measure in wanted}
        old = self.works.get(key)
        both: dict[str, MeasurePart | Reconstruction] = (old.measures if old else {}) | measures
        label = old.label if old else f"{arm.name} seed {seed}"
        self.works[key] = Work(key, label, self.settings.store, recipe.dump(), both, None, self.settings.threads, needs)
        return key, tuple(measures)

    def _key(self, recipe: AnyRecipe, seed: int) -> str:
        """Of the model that a recipe makes here."""
        device = "cuda" if on_gpu(self.settings.device) else "cpu"
        return digest([model_identity(recipe), seed, load_data(recipe.data).fingerprint, torch.__version__, device])

    def _recipe(self, experiment: Experiment, arm: Arm, seed: int) -> AnyRecipe:
        data = self.settings.data if experiment.data else None
        if experiment.data and data is None:
            raise UsageError(f"this tier is trained on {experiment.data}; give its place with --data PATH")

        def place(before: Arm) -> str:
            key = self._key(self._recipe(experiment, before, seed), seed)
            return str(model_folder(self.settings.store, key))

        recipe = recipe_of(experiment, arm, seed, data, place)
        if self.settings.trial is not None and isinstance(recipe, Recipe):
            recipe = recipe.replace(objective=recipe.objective.shortened(recipe.training.steps))
        return recipe.replace(training=recipe.training.replace(device=self.settings.device))

    def _judged(self, measure: MeasurePart | Reconstruction, recipe: AnyRecipe) -> list[object]:
        """What a measure's figure depends on beside the model: itself, and the features by which samples are judged."""
        if isinstance(measure, Reconstruction) or not measure.judged:
            return [measure_identity(measure)]
        return [measure_identity(measure), str(self._judge(recipe).features_hash)]

    def _judge(self, recipe: AnyRecipe) -> Judge:
        if recipe.data not in self.told:
            self.told.add(recipe.data)
            self.note(f"features that judge samples of {recipe.data.kind} data: trained here, or taken from the cache")
        return judge_of_data(recipe.data, torch.device("cpu"))

    def _first(self, experiment: Experiment) -> AnyRecipe | None:
        """The recipe of the first trained arm: all arms learn the same data."""
        trained = [arm for arm in experiment.arms if isinstance(arm, Arm)]
        return self._recipe(experiment, trained[0], 0) if trained else None

    def floors(self, experiment: Experiment) -> dict[int, float]:
        """What real images score on the distances of an experiment, by count."""
        counts = {measure.samples for measure in experiment.measures if isinstance(measure, Distance)}
        first = self._first(experiment)
        if first is None or not counts:
            return {}
        found = {count: floor_of(self._judge(first), count) for count in sorted(counts)}
        return {count: floor for count, floor in found.items() if floor is not None}

    def identified(self, experiment: Experiment) -> dict[str, str]:
        """Fingerprint of the data of an experiment, and hash of the features by which samples are judged."""
        first = self._first(experiment)
        if first is None:
            return {}
        judged = any(measure.judged for measure in experiment.measures)
        features = {"features": str(self._judge(first).features_hash)} if judged else {}
        return {"fingerprint": load_data(first.data).fingerprint, **features}

    def items(self) -> list[Work]:
        """Computations first, then all arms of the first seed, all of the second, ...: a stopped check is balanced."""
        order: dict[str, tuple[int, int]] = {}
        for place, ((_, _, seed), (key, _)) in enumerate(self.places.items()):
            order[key] = min(order.get(key, (seed, place)), (seed, place))
        return sorted(self.works.values(), key=lambda item: (item.exact is None, *order[item.key]))

    def values(self, claim: str, experiment: Experiment) -> dict[str, dict[int, Cell]]:
        """What was measured for a claim."""
        found: dict[str, dict[int, Cell]] = {}
        for arm in experiment.arms:
            for seed in experiment.seeds_of(arm):
                key, cells = self.places[claim, arm.name, seed]
                read = self.works[key].read()
                found.setdefault(arm.name, {})[seed] = {
                    name: value for cell in cells for name, value in read[cell].items()
                }
        return found

    def costs(self, claim: str, experiment: Experiment) -> dict[str, dict[str, float]]:
        """What the models of a claim's arms cost, in the mean over seeds."""
        found = {}
        for arm in experiment.arms:
            if isinstance(arm, ExactArm):
                continue
            rows = [self.works[self.places[claim, arm.name, seed][0]].trained() for seed in experiment.seeds_of(arm)]
            found[arm.name] = {
                name: sum(row[name] for row in rows) / len(rows) for name in ("steps", "images", "parameters")
            }
            whole = [row["seconds"] for row in rows if not row["resumed"]]
            if whole:
                found[arm.name]["seconds"] = sum(whole) / len(whole)
        return found

    def made(self, claim: str, experiment: Experiment) -> dict[str, tuple[str, ...]]:
        """All dates, commits, machines and versions with which the figures of a claim were made."""
        found: dict[str, set[str]] = {}
        for arm in experiment.arms:
            for seed in experiment.seeds_of(arm):
                for facts in self.works[self.places[claim, arm.name, seed][0]].made():
                    for name, value in facts.items():
                        found.setdefault(name, set()).add(value)
        return {name: tuple(sorted(values)) for name, values in found.items()}
