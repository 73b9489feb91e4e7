"""Generate samples of a run, with the conditions that were asked for."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from suffuse.acceleration import MacCounter, NoPlan, applied
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError, unknown_name
from suffuse.models.inpainting import KNOWN
from suffuse.models.low_resolution import LOW
from suffuse.models.picture import PICTURE
from suffuse.models.semantic import CODE
from suffuse.sampling import sample_batches
from suffuse.tasks.cascade import class_names, enlarged_conditions, label_count, shown_pictures, text_reader
from suffuse.tasks.prompts import prompt_conditions, reads_text
from suffuse.tasks.runs import OpenRun, own_data
from suffuse.training.sample_conditions import labels_told, rows_told, sample_conditions
from suffuse.training.settings import SamplingSettings

__all__ = ["Asked", "Generated", "conditions_for", "generate", "generate_each", "told_beside"]


@dataclass(frozen=True)
class Generated:
    """Samples and what they cost.

    Attributes:
        x: (n, ...) on the CPU; images where the model makes latents.
        labels: Classes that were asked for, (n,); None for a model that knows none.
        classes: Names of the model's classes; empty when it knows none.
        captions: Texts that were asked for, n of them; empty for a model that reads none.
        nfe: Network evaluations per sample, counted; of a cascade those of its last stage.
        seconds: Wall time of sampling and, for a model of latents, of decoding; with the stages before, of a cascade.
        macs: Multiply-accumulates of the network per sample; None where they were not counted.
    """

    x: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    nfe: float
    seconds: float
    macs: float | None = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What a user asks of the samples; by default what the model is told of its data, in turn.

    Attributes:
        label: Class of all samples, by name or number.
        prompts: Texts: one for all samples, or one each.
        negative: Text that guidance leads away from.
        pictures: What a model that is shown pictures sees beside the samples, (n, C, H, W) in [-1, 1], one each.
    """

    label: str | None = None
    prompts: tuple[str, ...] = ()
    negative: str | None = None
    pictures: Tensor | None = field(default=None, compare=False)


def conditions_for(
    run: OpenRun, n: int, asked: Asked | None = None, first: int = 0, seed: int = 0
) -> tuple[Conditions | None, tuple[str, ...]]:
    """Conditions of n samples, and the captions among them; see `sample_conditions`.

    Raises:
        UsageError: No such class, the model knows none or reads no text, or it is told of images and those of the run
            are not here.
    """
    asked = asked or Asked()
    number = None if asked.label is None else _number_of(run, asked.label)
    if run.first is not None:
        captions = _captions_of_cascade(run, n, asked, first, number)
        cond: Conditions | None = enlarged_conditions(run, n, asked, captions, number=number, first=first, seed=seed)
    elif asked.pictures is not None:
        cond, captions = told_beside(run, n, replace(asked, negative=None))
        cond = cond.plus(picture=shown_pictures(run, n, asked.pictures))
    elif asked.prompts:
        captions = _one_each(asked.prompts, n)
        _only_text(run)
        cond = prompt_conditions(run, captions)
    else:
        cond, captions = _of_data(run, n, first, number, seed)
    return _against(run, cond, asked, n), captions


def told_beside(run: OpenRun, n: int, asked: Asked) -> tuple[Conditions, tuple[str, ...]]:
    """Class and texts that are asked for alone, for a model that is shown pictures too, which the caller adds.

    Raises:
        UsageError: No such class, the model knows none or reads no text.
    """
    cond = Conditions()
    captions: tuple[str, ...] = ()
    if asked.prompts:
        captions = _one_each(asked.prompts, n)
        cond = prompt_conditions(run, captions)
    if asked.label is not None:
        cond = cond.plus(label=labels_told(1, n, label=_number_of(run, asked.label)))
    return _against(run, cond, asked, n) or Conditions(), captions


def _one_each(prompts: tuple[str, ...], n: int) -> tuple[str, ...]:
    captions = prompts * n if len(prompts) == 1 else prompts
    if len(captions) != n:
        raise UsageError(f"there are {len(captions)} prompts for {n} samples; give one for each, or one for all")
    return captions


def _against(run: OpenRun, cond: Conditions | None, asked: Asked, n: int) -> Conditions | None:
    """Conditions with what guidance leads away from."""
    if asked.negative is None:
        return cond
    if cond is not None and reads_text(run):
        return cond.against(prompt_conditions(run, (asked.negative,) * n))
    if text_reader(run) is None:
        raise UsageError("a negative prompt needs a model that reads text, but this one reads none; leave it out")
    return cond  # an earlier stage of the cascade was told


def _captions_of_cascade(run: OpenRun, n: int, asked: Asked, first: int, label: int | None) -> tuple[str, ...]:
    """Texts of the samples of a cascade: those asked for, else those of its data in turn; none when none is read."""
    reader = text_reader(run)
    if asked.prompts:
        if reader is None:
            prompt_conditions(run, asked.prompts)  # says why not
        return _one_each(asked.prompts, n)
    if reader is None:
        return ()
    data = own_data(reader)
    return data.captions_of(rows_told(data, n, first, label))


def _of_data(
    run: OpenRun, n: int, first: int, label: int | None, seed: int
) -> tuple[Conditions | None, tuple[str, ...]]:
    """What the model is told of its data, in turn."""
    data = functools.cache(lambda: own_data(run))
    cond = sample_conditions(run.model, n, first=first, label=label, data=data, seed=seed)
    if not reads_text(run):
        return cond, ()
    return cond, data().captions_of(rows_told(data(), n, first, label))


def _only_text(run: OpenRun) -> None:
    needed = [name for name in run.model.conditioner.reads if name in (LOW, KNOWN, PICTURE, CODE)]
    if needed:
        raise UsageError(f"this model is told {needed[0]} too, which a prompt cannot give; sample it in Python")


def _number_of(run: OpenRun, label: str) -> int:
    count = label_count(run)
    if not count:
        raise UsageError(f"label {label!r} needs a class-conditional model, but this one knows no classes")
    names = class_names(run) or tuple(str(i) for i in range(count))
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < count:
        return int(label)
    raise unknown_name("class", label, names)


def generate(
    run: OpenRun,
    n: int,
    settings: SamplingSettings,
    *,
    seed: int = 0,
    first: int = 0,
    asked: Asked | None = None,
    cond: Conditions | None = None,
    captions: tuple[str, ...] = (),
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
        asked: Class or text of the samples; what the model is told of its data, in turn, when None.
        cond: The conditions themselves, of all n samples, in place of what is asked: small images to be enlarged, say.
        captions: Texts among them, for the record.
        on_samples: Called after each batch with the number of samples finished.
        on_step: Called after each solver step, see `sample_batches`.
        counter: Counts multiply-accumulates; the first call of each kind takes longer.
    """
    if n < 1:
        raise UsageError(f"n is {n}; ask for at least one sample")
    if first < 0:
        raise UsageError(f"first is {first}; samples are numbered from 0")
    began = time.perf_counter()
    if cond is None:
        cond, captions = conditions_for(run, n, asked, first, seed)
    parts, rows, done = [], 0.0, 0
    seconds = 0.0 if run.first is None else time.perf_counter() - began
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
            told = None if cond is None else cond[done : done + len(made.x)]
            parts.append(run.decode(made.x, told, seed=seed, first=first + done).cpu())
            rows += made.nfe * len(made.x)
            seconds += made.seconds + time.perf_counter() - began
            done += len(made.x)
            if on_samples is not None:
                on_samples(done)
    labels = cond.values.get("label") if cond else None
    macs = planned.macs / n if planned is not None and counter is not None else None
    return Generated(torch.cat(parts), labels, run.config.classes, rows / n, seconds, macs, captions)


def generate_each(
    run: OpenRun,
    n: int,
    settings: SamplingSettings,
    wishes: Sequence[Asked],
    *,
    seed: int = 0,
    first: int = 0,
    on_samples: Callable[[int], None] | None = None,
) -> Generated:
    """n samples of each wish, in a row, and what they cost together. All wishes have the same noise.

    Args:
        run: What to sample.
        n: How many of each.
        settings: As for `generate`.
        wishes: What is asked for.
        seed: As for `generate`.
        first: Number of the first sample of each.
        on_samples: Called after each batch with the number of samples finished altogether.
    """
    parts: list[Generated] = []
    for wish in wishes:
        before = n * len(parts)
        told = None if on_samples is None else functools.partial(_and_before, on_samples, before)
        parts.append(generate(run, n, settings, seed=seed, first=first, asked=wish, on_samples=told))
    if len(parts) == 1:
        return parts[0]
    labels = [part.labels for part in parts if part.labels is not None]
    return replace(
        parts[0],
        x=torch.cat([part.x for part in parts]),
        labels=torch.cat(labels) if len(labels) == len(parts) else None,
        nfe=sum(part.nfe for part in parts) / len(parts),
        seconds=sum(part.seconds for part in parts),
        captions=tuple(caption for part in parts for caption in part.captions),
    )


def _and_before(on_samples: Callable[[int], None], before: int, done: int) -> None:
    on_samples(before + done)
