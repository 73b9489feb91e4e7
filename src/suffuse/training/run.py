"""A training run: data, model, folder, loop, checkpoints and what is left behind."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError
from suffuse.data import Buckets, Dataset, contact_sheet, save_picture, to_uint8
from suffuse.models.config import ModelConfig
from suffuse.models.pretrained import WEIGHTS_FILE, save_model
from suffuse.models.tokenizer import TOKENIZER_FILE
from suffuse.training.bucketed import main_of
from suffuse.training.calibrate import calibrated
from suffuse.training.card import model_card
from suffuse.training.checkpoint import Found, find_latest, load_checkpoint, save_checkpoint
from suffuse.training.decoding import Decoder
from suffuse.training.environment import environment
from suffuse.training.first_stages import begun
from suffuse.training.frozen_parts import PARTS, embedded, kept, located
from suffuse.training.handed import objective_of
from suffuse.training.loading import loaded
from suffuse.training.lock import RunLock
from suffuse.training.metrics_log import MetricsLog
from suffuse.training.optimiser import learning_rate
from suffuse.training.recipe_base import RecipePart
from suffuse.training.recipe_files import dump_recipe, load_recipe
from suffuse.training.recipes import AnyRecipe, AnyResolved
from suffuse.training.resumed import changes_told, check_data, check_resumed
from suffuse.training.run_files import CHECKPOINTS, LATENTS_PICTURE, RECIPE_FILE, STAGE_FILE, STAGES, STAGES_FILE
from suffuse.training.settings import TrainingSettings
from suffuse.training.signals import Stop, Stopped
from suffuse.training.stage_places import references
from suffuse.training.trainer import Trainer
from suffuse.training.world import World, joined

__all__ = ["RECIPE_FILE", "Finished", "Watcher", "check_recipe", "check_resumable", "train"]


_FULL = (
    "the GPU's memory is full; raise training.accumulate, lower training.batch, or use training.precision=bfloat16 or "
    "network.checkpointing=true"
)


@dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
        folder: The run's folder.
        step: Steps taken.
        seconds: Wall time of this session.
        loss: Mean loss of the last report.
        first: Whether this process is the one that talks.
    """

    folder: Path
    step: int
    seconds: float
    loss: float
    first: bool = True


@dataclass
class Watcher:
    """What a run tells while it goes; the command line draws a bar from it.

    Attributes:
        note: Called with a sentence about something chosen or noticed.
        progress: Called after every step with (steps taken, steps altogether, numbers of the last report).
        begins: Called when a stage begins, with which of how many it is; never for a recipe without stages.
    """

    note: Callable[[str], None] = field(default=lambda text: None)
    progress: Callable[[int, int, dict[str, float]], None] = field(default=lambda step, total, numbers: None)
    begins: Callable[[str], None] = field(default=lambda text: None)


def check_recipe(recipe: AnyRecipe) -> None:
    """Refuse parts that do not go together, before any data are read.

    Raises:
        UsageError: Names the parts, the reason and the mend.
    """
    recipe.check()


def train(recipe: AnyRecipe, name: str, *, resume: bool = False, watcher: Watcher | None = None) -> Finished:
    """Train to the recipe's last step, or go on with an interrupted run.

    Args:
        recipe: What to do.
        name: Name of the run, for its folder when the recipe has no `out`.
        resume: Continue from the newest whole checkpoint.
        watcher: Hears what happens.

    Raises:
        UsageError: A request that cannot be met, found before any work.
        RunError: The work failed; the last whole checkpoint is left.
        Stopped: A signal asked for it; the state is saved.
    """
    watcher = watcher or Watcher()
    _check_alone(recipe)
    check_recipe(recipe)
    folder = Path(recipe.out or f"runs/{name}").expanduser()
    with joined(recipe.training.device) as world, Stop() as stop:
        _check_share(recipe.training, world)
        world.first_alone(lambda: _claim(folder, resume), f"use {folder}")
        with contextlib.ExitStack() as held:
            # The first process holds the lock for all.
            world.first_alone(lambda: held.enter_context(RunLock(folder)), f"lock {folder}")
            with stop.interruptible():
                if resume:
                    recorded = load_recipe(str(folder / RECIPE_FILE))
                    check_resumed(recipe, recorded)
                    for line in changes_told(recipe, recorded) if world.first else ():
                        watcher.note(line)
                    recipe = kept(recipe, recorded)
                asked = recipe
                whole = world.first_alone(lambda: embedded(asked, folder), "copy the frozen models")
                resolved, dataset, data = loaded(whole or embedded(asked, folder), folder, world, watcher.note)
                resolved = _timed(resolved, dataset, folder, world, watcher, resume=resume)
                if resume:
                    check_resumable(folder)
                found = find_latest(folder / CHECKPOINTS)  # of a run that is resumed
                session = _Session(resolved, dataset, folder, world, stop, watcher, fresh=found.path is None)
                session.data = data
                if resume:
                    session.resume(found)
            return session.run()


def _check_alone(recipe: AnyRecipe) -> None:
    """Refuse a stage that builds on others, asked for by itself."""
    if stages := sorted(references(recipe.dump())):
        raise UsageError(
            f"'stage:{stages[0]}' is a stage of a recipe with stages, on which a recipe by itself cannot build; train "
            f"that recipe whole, or train RECIPE:{stages[0]} first and give its folder in place of 'stage:{stages[0]}'"
        )


def _check_share(settings: TrainingSettings, world: World) -> None:
    """Refuse a batch that the processes and their accumulated parts cannot share evenly."""
    parts = world.size * settings.accumulate
    if settings.batch % parts:
        raise UsageError(
            f"training.batch is {settings.batch}, which cannot be shared evenly (processes: {world.size}, accumulate: "
            f"{settings.accumulate}); use a multiple of {parts}"
        )


def _claim(folder: Path, resume: bool) -> None:
    """Make the run's folder, or see that it is a run when resuming; a killed writer's leftovers are removed."""
    for place in (folder, folder / "ema", folder / "samples", folder / PARTS):
        if place.is_dir():
            files.clean_staging(place)
    if resume:
        if not (folder / RECIPE_FILE).is_file():
            raise UsageError(f"there is no run to resume in {folder}; leave --resume out, or correct out=")
        return
    # A run that failed before its first line has left copies of its frozen models, which the next one uses.
    begun = {".lock", PARTS, LATENTS_PICTURE, TOKENIZER_FILE, STAGES, STAGES_FILE, STAGE_FILE}
    if folder.exists() and (not folder.is_dir() or any(entry.name not in begun for entry in folder.iterdir())):
        raise UsageError(f"{folder} exists already; add --resume to go on with it, or choose another out=")
    files.make_folder(folder)


def check_resumable(folder: Path) -> None:
    """Refuse to resume a run that has a model and nothing to go on from: it would begin anew, over the model.

    Raises:
        UsageError: Says what is missing.
    """
    found = find_latest(folder / CHECKPOINTS)
    if found.path is None and (folder / WEIGHTS_FILE).is_file():
        broken = f" (broken: {', '.join(path.name for path, _ in found.skipped)})" if found.skipped else ""
        raise UsageError(
            f"{folder} has a model but no whole checkpoint to go on from{broken}; bring {folder / CHECKPOINTS} back, "
            f"or begin another run from the model with init.run={folder}"
        )


def _timed(
    resolved: AnyResolved, dataset: Dataset | Buckets, folder: Path, world: World, watcher: Watcher, *, resume: bool
) -> AnyResolved:
    """A budget of minutes as a number of steps: that of the run itself when it is resumed, else by a calibration."""
    settings = resolved.recipe.training
    if settings.minutes is None:
        return resolved
    if resume:
        steps = load_recipe(str(folder / RECIPE_FILE)).training.steps
        return replace(resolved, recipe=resolved.recipe.replace(training=settings.replace(steps=steps, minutes=None)))
    recipe, said = calibrated(resolved, dataset, folder, world)
    try:
        check_recipe(recipe)
    except UsageError as error:
        raise UsageError(f"{said.split(',')[0]}, too few: {error}; here, raise training.minutes") from None
    if world.first:
        watcher.note(said)
    return replace(resolved, recipe=recipe)


class _Session:
    """One process's part in a run."""

    def __init__(
        self,
        resolved: AnyResolved,
        samples: Dataset | Buckets,
        folder: Path,
        world: World,
        stop: Stop,
        watcher: Watcher,
        *,
        fresh: bool,
    ) -> None:
        recipe = resolved.recipe
        self.recipe, self.settings, self.config = recipe, recipe.training, resolved.model
        dataset = main_of(samples)
        self.samples, self.folder, self.world, self.stop, self.watcher = samples, folder, world, stop, watcher
        self.model = self.config.build(seed=self.settings.seed)
        for line in begun(self.model, recipe, dataset) if fresh else ():
            if world.first:
                watcher.note(line)
        objective = objective_of(located(recipe, folder), dataset, world)
        self.trainer = Trainer(self.model, objective, self.settings, recipe.optimiser, world)
        self.loader = recipe.loader(samples, world)
        self.decoder: Decoder | None = None  # loaded when the first sheet is drawn
        self.meter = _Meter(self.settings.batch)
        self.report: dict[str, Tensor] = {}
        self.remarked: set[str] = set()
        self.saved_at = -1
        self.data = ""  # fingerprint of what it learns from

    def resume(self, found: Found) -> None:
        """Go back to the newest whole checkpoint."""
        for path, why in found.skipped:
            self.watcher.note(f"skipped the broken checkpoint {path.name}: {why}")
        if found.path is None:
            self.watcher.note("no checkpoint yet: starting from step 0")
            return
        state = load_checkpoint(found.path)
        check_data(self.data, state.get("data"))
        self.trainer.load(state)
        if self.trainer.step > self.settings.steps:
            raise UsageError(
                f"training.steps is {self.settings.steps}, but the run has taken {self.trainer.step}; ask for more, or "
                "leave steps as they were"
            )
        self.meter.load(state["meter"], self.world.device)
        self.saved_at = self.trainer.step
        self.watcher.note(f"resumed at step {self.trainer.step} from {found.path.name}")

    def run(self) -> Finished:
        """Take the remaining steps."""
        began = time.perf_counter()
        log = self._open_log()
        try:
            self._train(log)
        except (RunError, torch.OutOfMemoryError) as error:
            last = find_latest(self.folder / CHECKPOINTS).path
            left = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
            raise RunError(f"{error if isinstance(error, RunError) else _FULL}; {left}") from error
        finally:
            if log is not None:
                log.close()
        seconds = time.perf_counter() - began
        return Finished(self.folder, self.trainer.step, seconds, self.meter.loss, self.world.first)

    def _open_log(self) -> MetricsLog | None:
        if not self.world.first:
            return None
        files.write_text(self.folder / RECIPE_FILE, dump_recipe(self.recipe))
        files.write_json(self.folder / "environment.json", environment(self.world))
        return MetricsLog(self.folder, resumed_at=self.trainer.step, tensorboard=self.settings.tensorboard)

    def _train(self, log: MetricsLog | None) -> None:
        """The loop, and what is saved at its end."""
        try:
            self._loop(log)
        except Stopped:
            self._save()
            if self.world.first:
                self.watcher.note(f"saved step {self.trainer.step}; go on with --resume")
            raise
        self._save()

    def _loop(self, log: MetricsLog | None) -> None:
        self.meter.begin()
        total = self.settings.steps
        # One process that left while it waits for data would leave the others waiting for it: they only ask each other.
        alone = self.stop.interruptible if self.world.size == 1 else contextlib.nullcontext
        with self.loader.stream(self.trainer.step) as batches:
            while self.trainer.step < total:
                if self.world.any(self.stop.requested):
                    self.stop.request()
                    self.stop.check()
                with alone(), self.meter.waiting():
                    batch = next(batches)
                self.report = self.trainer.train_step(batch, self.loader.draws(self.trainer.step))
                self.meter.add(self.report)
                self._after(log)

    def _after(self, log: MetricsLog | None) -> None:
        """Log, sample and save when their turn has come."""
        step, settings = self.trainer.step, self.settings
        if step % settings.log_every == 0 or step == settings.steps:
            numbers = self.meter.read(self.world, self.trainer.losses)
            numbers["lr"] = learning_rate(self.recipe.optimiser, step - 1, settings.steps)
            if log is not None:
                log.write({"step": step, "images": self.trainer.images, **numbers})
                self._remark(self.recipe.remarks(numbers, step))
        if self.world.first:
            self.watcher.progress(step, settings.steps, self.meter.numbers)
        if step % settings.checkpoint_every == 0 and step < settings.steps:
            self._save()
        if settings.sample_every and step % settings.sample_every == 0 and self.world.first:
            with contextlib.suppress(Stopped), self.stop.interruptible():  # the loop asks before the next step
                self._sample_sheet()

    def _remark(self, said: tuple[str, ...]) -> None:
        """Tell what was noticed, each thing once a session."""
        for line in said:
            if (thing := line.split(":")[0]) not in self.remarked:
                self.watcher.note(line)
                self.remarked.add(thing)

    def _save(self) -> None:
        """Checkpoint, then the model that the world sees: also after a kill between the two."""
        self.trainer.check_finite(self.report)
        state = {**self.trainer.state(), "meter": self.meter.state(self.world), "data": self.data}
        if not self.world.first:
            return
        if self.saved_at != self.trainer.step:
            save_checkpoint(self.folder / CHECKPOINTS, self.trainer.step, state, keep=self.settings.keep)
            self.saved_at = self.trainer.step
        ema = self.trainer.ema
        primary, *others = ema.names
        config = self.config.replace(weights=primary, others=tuple(others), step=self.trainer.step)
        save_model(self.folder, config, ema.weights(primary), {name: ema.weights(name) for name in others})
        files.write_text(self.folder / "README.md", model_card(self.recipe, config, self.samples))

    @torch.no_grad()
    def _sample_sheet(self) -> None:
        """A sheet of what the primary average does."""
        shadow = copy.deepcopy(self.model)
        shadow.load_state_dict(self.trainer.ema.weights(self.trainer.ema.names[0]))
        recipe: RecipePart = self.recipe
        if self.decoder is None and isinstance(self.config, ModelConfig) and self.config.codec is not None:
            self.decoder = Decoder.open(self.folder / self.config.codec, self.world.device)
        decode = None if self.decoder is None else self.decoder.decode
        made = recipe.examples(shadow.eval(), main_of(self.samples), decode)
        if made.ndim == 4:
            files.make_folder(self.folder / "samples")
            path = self.folder / "samples" / f"step-{self.trainer.step:08d}.png"
            save_picture(contact_sheet(to_uint8(made)), path)


class _Meter:
    """Means since the last report, without a look at the device in between."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.numbers: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self.begin()

    def begin(self) -> None:
        """Start the clock; steps that an interrupted run took before are in the means, not in the speed."""
        self._timed, self._wait, self._since = 0, 0.0, time.perf_counter()

    def state(self, world: World) -> dict[str, Any]:  # Any: numbers and tensors
        """What the next report will be made of; all processes must ask."""
        return {"steps": self._steps, "sums": {name: world.mean(value) for name, value in self._sums.items()}}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:  # Any: as above
        """Take it back."""
        self._steps = int(state["steps"])
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}

    def waiting(self) -> _Wait:
        """Time a wait for data."""
        return _Wait(self)

    def add(self, report: dict[str, Tensor]) -> None:
        """Add the scalars of a step."""
        for name, value in report.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1
        self._timed += 1

    def read(self, world: World, losses: Sequence[str]) -> dict[str, float]:
        """Means, the sum of `losses`, images a second, and the share of time spent waiting; starts over."""
        means = world.mean(torch.stack(list(self._sums.values())) / self._steps).tolist()
        seconds = time.perf_counter() - self._since  # after the look: a device's queue belongs to these steps
        self.numbers = dict(zip(self._sums, means, strict=True))
        self.numbers["loss"] = sum(self.numbers[name] for name in losses)
        self.numbers["images_per_second"] = self._timed * self.batch / max(seconds, 1e-9)
        self.numbers["data_wait"] = self._wait / max(seconds, 1e-9)
        self._sums, self._steps = {}, 0
        self.begin()
        return dict(self.numbers)

    @property
    def loss(self) -> float:
        """Mean loss of the last report."""
        return self.numbers.get("loss", float("nan"))


class _Wait:
    def __init__(self, meter: _Meter) -> None:
        self.meter = meter

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.meter._wait += time.perf_counter() - self.began
