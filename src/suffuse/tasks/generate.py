"""Generate samples of a run, with the conditions that were asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError, unknown_name
from suffuse.models.conditioner import ClassLabel
from suffuse.sampling import sample_batches
from suffuse.tasks.runs import OpenRun
from suffuse.training.recipe import SamplingSettings
from suffuse.training.run import cycling_labels

__all__ = ["Generated", "generate", "labels_for"]


@dataclass(frozen=True)
class Generated:
    """Samples and what they cost.

    Attributes:
        x: (n, ...) on the CPU.
        labels: Classes that were asked for, (n,); None for an unconditional model.
        classes: Names of the model's classes; empty when it knows none.
        nfe: Network evaluations per sample, counted.
        seconds: Wall time of sampling.
    """

    x: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    nfe: float
    seconds: float


def labels_for(run: OpenRun, n: int, label: str | None = None, first: int = 0) -> Conditions | None:
    """Conditions of n samples: one class by name or number, or all classes in turn.

    Raises:
        UsageError: No such class, or the model knows none.
    """
    conditioner = run.config.conditioner
    if label is None:
        return cycling_labels(conditioner, n, first)
    if not isinstance(conditioner, ClassLabel):
        raise UsageError(f"label {label!r} needs a class-conditional model, but this one knows no classes")
    names = run.config.classes or tuple(str(i) for i in range(conditioner.classes))
    if label in names:
        number = names.index(label)
    elif label.isdecimal() and int(label) < conditioner.classes:
        number = int(label)
    else:
        raise unknown_name("class", label, names)
    return Conditions.of(label=torch.full((n,), number))


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
) -> Generated:
    """Sample a run.

    Args:
        run: What to sample.
        n: How many.
        settings: Solver, grid, guidance, batch, precision.
        seed: With the sample's number it determines the noise.
        first: Number of the first sample.
        label: Class of all samples; all classes in turn when None.
        on_samples: Called after each batch with the number of samples finished.
        on_step: Called after each solver step, see `sample_batches`.
    """
    if n < 1:
        raise UsageError(f"n is {n}; ask for at least one sample")
    if first < 0:
        raise UsageError(f"first is {first}; samples are numbered from 0")
    cond = labels_for(run, n, label, first)
    parts, rows, seconds, done = [], 0.0, 0.0, 0
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
        parts.append(made.x.cpu())
        rows += made.nfe * len(made.x)
        seconds += made.seconds
        done += len(made.x)
        if on_samples is not None:
            on_samples(done)
    labels = cond.values["label"] if cond else None
    return Generated(torch.cat(parts), labels, run.config.classes, rows / n, seconds)
