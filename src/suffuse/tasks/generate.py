"""Generate samples of a run, with the conditions that were asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from suffuse.acceleration import MacCounter, NoPlan, applied
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError, unknown_name
from suffuse.data import Dataset
from suffuse.sampling import sample_batches
from suffuse.tasks.runs import OpenRun
from suffuse.training.sample_conditions import sample_conditions
from suffuse.training.settings import SamplingSettings

__all__ = ["Generated", "conditions_for", "generate"]


@dataclass(frozen=True)
class Generated:
    """Samples and what they cost.

    Attributes:
        x: (n, ...) on the CPU; images where the model makes latents.
        labels: Classes that were asked for, (n,); None for a model that knows none.
        classes: Names of the model's classes; empty when it knows none.
        nfe: Network evaluations per sample, counted.
        seconds: Wall time of sampling and, for a model of latents, of decoding.
        macs: Multiply-accumulates of the network per sample; None where they were not counted.
    """

    x: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    nfe: float
    seconds: float
    macs: float | None = None


def conditions_for(run: OpenRun, n: int, label: str | None = None, first: int = 0) -> Conditions | None:
    """Conditions of n samples: one class by name or number, or all in turn; see `sample_conditions`.

    Raises:
        UsageError: No such class, the model knows none, or it is told of images and those of the run are not here.
    """
    number = None if label is None else _number_of(run, label)
    return sample_conditions(run.model, n, first=first, label=number, data=lambda: _data_of(run))


def _number_of(run: OpenRun, label: str) -> int:
    count = run.config.conditioner.label_count
    if not count:
        raise UsageError(f"label {label!r} needs a class-conditional model, but this one knows no classes")
    names = run.config.classes or tuple(str(i) for i in range(count))
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < count:
        return int(label)
    raise unknown_name("class", label, names)


def _data_of(run: OpenRun) -> Dataset:
    """The run's own data, for models that are told of images."""
    names = run.model.conditioner.observes
    why = f"this model is told {' and '.join(names)} of images"
    mend = f"sample it in Python: sample(model, n, cond=Conditions.of({', '.join(f'{name}=...' for name in names)}))"
    if run.recipe is None:
        raise UsageError(f"{why}, and {run.folder} does not say on which it was trained; {mend}")
    try:
        return run.training_data(run.recipe.data)
    except UsageError as error:
        raise UsageError(
            f"{why}, and those that {run.folder} was trained on cannot be loaded ({error}); {mend}"
        ) from error


def generate(
    run: OpenRun,
    n: int,
    settings: SamplingSettings,
    *,
    seed: int = 0,
    first: int = 0,
    label: str | None = None,
    on_samples: Callable[[int], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    counter: MacCounter | None = None,
) -> Generated:
    """Sample a run.

    Args:
        run: What to sample.
        n: How many.
        settings: Solver, grid, guidance, plan, batch, precision.
        seed: With the sample's number it determines the noise.
        first: Number of the first sample.
        label: Class of all samples; all classes in turn when None.
        on_samples: Called after each batch with the number of samples finished.
        on_step: Called after each solver step, see `sample_batches`.
        counter: Counts multiply-accumulates; the first call of each kind takes longer.
    """
    if n < 1:
        raise UsageError(f"n is {n}; ask for at least one sample")
    if first < 0:
        raise UsageError(f"first is {first}; samples are numbered from 0")
    cond = conditions_for(run, n, label, first)
    parts, rows, seconds, done = [], 0.0, 0.0, 0
    # A plan that computes everything, and counts nothing, is not even there.
    absent = settings.plan == NoPlan() and counter is None
    with nullcontext() if absent else applied(run.model, settings.plan, counter=counter) as planned:
        for made in sample_batches(
            run.model,
            n,
            shape=run.config.shape,
            solver=settings.solver,
            grid=settings.grid,
            guidance=settings.guidance,
            cond=cond,
            seed=seed,
            batch=settings.batch,
            first=first,
            precision=settings.precision,
            on_step=on_step,
        ):
            began = time.perf_counter()
            parts.append(run.decode(made.x).cpu())
            rows += made.nfe * len(made.x)
            seconds += made.seconds + time.perf_counter() - began
            done += len(made.x)
            if on_samples is not None:
                on_samples(done)
    labels = cond.values.get("label") if cond else None
    macs = planned.macs / n if planned is not None and counter is not None else None
    return Generated(torch.cat(parts), labels, run.config.classes, rows / n, seconds, macs)
