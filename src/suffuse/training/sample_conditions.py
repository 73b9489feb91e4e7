"""What a run's own samples are conditioned on when nothing else is said: its classes, or its images, in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys
from suffuse.data import Dataset
from suffuse.models.denoiser import Denoiser

__all__ = ["labels_told", "rows_told", "sample_conditions"]

_AT_ONCE = 256  # images of the data that are looked at together


def sample_conditions(
    model: Denoiser,
    n: int,
    *,
    first: int = 0,
    label: int | None = None,
    data: Callable[[], Dataset],
    seed: int = 0,
) -> Conditions | None:
    """Conditions of samples first, first + 1, ..., first + n - 1, the same for a sample whatever n is.

    A model that draws its conditions by itself gets these. One that is told classes alone gets 0, 1, 2, ... in turn.
    One that is told of the image itself, or reads its caption, gets what is observed in image number `first`,
    `first + 1`, ... of the data, and that image's class.

    Args:
        model: What is sampled; it has a configuration.
        n: How many samples.
        first: Number of the first one.
        label: Class of all of them; all classes in turn when None.
        data: Gives the data that are observed; called only when the model needs them.
        seed: Of what is drawn: the model's own conditions, masks of images.

    Returns:
        On the CPU, present where the data have them; None for a model that is told nothing.

    Raises:
        UsageError: No image of the data has this label.
    """
    assert model.config is not None
    drawn = model.conditioner.drawn(keys(seed, "conditions", 0, torch.arange(first, first + n)))
    if drawn is not None:
        return drawn.to("cpu")
    if model.conditioner.observes:
        return _observed(model, data(), n, first, label, seed)
    part = model.config.conditioner
    if part.text is not None or part.sees_images or part.companion is not None:
        return _beside(model, data(), n, first, label)
    classes = part.label_count
    if not classes:
        return None
    return Conditions.of(label=labels_told(classes, n, first, label))


def labels_told(classes: int, n: int, first: int = 0, label: int | None = None) -> Tensor:
    """Classes of samples first, ..., first + n - 1, (n,) int64: one for all, or 0, 1, 2, ... in turn."""
    return torch.arange(first, first + n) % classes if label is None else torch.full((n,), label)


def rows_told(dataset: Dataset, n: int, first: int = 0, label: int | None = None) -> Tensor:
    """Numbers of the images that samples first, ..., first + n - 1 are told of, (n,).

    Raises:
        UsageError: No image of the data has this label.
    """
    places = torch.arange(len(dataset))
    if label is not None and dataset.labels is not None:
        places = torch.from_numpy(np.flatnonzero(dataset.labels == label))
    if not len(places):
        raise UsageError(f"no image of data {dataset.name!r} has label {label} to start from; choose another label")
    return places[torch.arange(first, first + n) % len(places)]


def _beside(model: Denoiser, dataset: Dataset, n: int, first: int, label: int | None) -> Conditions:
    return _read(model, dataset.batch(rows_told(dataset, n, first, label)).cond)


def _observed(model: Denoiser, dataset: Dataset, n: int, first: int, label: int | None, seed: int) -> Conditions:
    rows = rows_told(dataset, n, first, label)
    drawn = keys(seed, "observed", 0, torch.arange(first, first + n))
    pairs = zip(torch.split(rows, _AT_ONCE), torch.split(drawn, _AT_ONCE), strict=True)
    parts = [_of_images(model, dataset, some, theirs) for some, theirs in pairs]
    return functools.reduce(Conditions.cat, parts)


def _of_images(model: Denoiser, dataset: Dataset, rows: Tensor, drawn: Tensor) -> Conditions:
    """What the model reads of these images, by name."""
    batch = dataset.batch(rows)
    assert batch.x0 is not None
    return _read(model, model.conditioner.observe(batch.x0, batch.cond, drawn))


def _read(model: Denoiser, cond: Conditions) -> Conditions:
    names = [name for name in model.conditioner.reads if name in cond.values]
    return Conditions({name: cond.values[name] for name in names}, {name: cond.present[name] for name in names})
