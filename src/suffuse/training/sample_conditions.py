"""What a run's own samples are conditioned on when nothing else is said: its classes, or its images, in turn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys
from suffuse.data import Dataset
from suffuse.models.denoiser import Denoiser

__all__ = ["rows_told", "sample_conditions"]

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
        seed: Of conditions that the model draws.

    Returns:
        On the CPU, all present; None for a model that is told nothing.

    Raises:
        UsageError: No image of the data has this label.
    """
    assert model.config is not None
    drawn = model.conditioner.drawn(keys(seed, "conditions", 0, torch.arange(first, first + n)))
    if drawn is not None:
        return drawn.to("cpu")
    if model.conditioner.observes:
        return _observed(model, data(), n, first, label)
    if model.config.conditioner.text is not None or model.config.conditioner.sees_images:
        return _beside(model, data(), n, first, label)
    classes = model.config.conditioner.label_count
    if not classes:
        return None
    numbers = torch.arange(first, first + n) % classes if label is None else torch.full((n,), label)
    return Conditions.of(label=numbers)


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
    cond = dataset.batch(rows_told(dataset, n, first, label)).cond
    names = [name for name in model.conditioner.reads if name in cond.values]
    return Conditions({name: cond.values[name] for name in names}, {name: cond.present[name] for name in names})


def _observed(model: Denoiser, dataset: Dataset, n: int, first: int, label: int | None) -> Conditions:
    rows = rows_told(dataset, n, first, label)
    parts = [_of_images(model, dataset, part) for part in torch.split(rows, _AT_ONCE)]
    return Conditions.of(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _of_images(model: Denoiser, dataset: Dataset, rows: Tensor) -> dict[str, Tensor]:
    """What the model reads of these images, by name."""
    batch = dataset.batch(rows)
    assert batch.x0 is not None
    seen = model.conditioner.observe(batch.x0, batch.cond).values
    return {name: seen[name] for name in model.conditioner.reads if name in seen}
