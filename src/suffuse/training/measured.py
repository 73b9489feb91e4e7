"""Numbers measured on data before training: over some of the samples, the same ones always."""

from __future__ import annotations

import torch
from torch import Tensor

from suffuse.base.randomness import permutation
from suffuse.data import Dataset

__all__ = ["deviation", "samples_of", "some"]

_BATCH = 256  # samples at a time
_MEASURED = 10_000  # at most


def some(dataset: Dataset) -> tuple[Tensor, ...]:
    """Numbers of the samples that are measured, a batch at a time."""
    return torch.split(permutation(0, "measured", 0, len(dataset))[:_MEASURED].sort().values, _BATCH)


def samples_of(dataset: Dataset, index: Tensor) -> Tensor:
    """Samples by number, (B, ...), as batches have them."""
    found = dataset.batch(index).x0
    assert found is not None
    return found


def deviation(dataset: Dataset) -> float:
    """Standard deviation of all numbers of the samples about their common mean, to three digits."""
    count, total, squares = 0, 0.0, 0.0
    for index in some(dataset):
        values = samples_of(dataset, index).double()
        count += values.numel()
        total += values.sum().item()
        squares += values.square().sum().item()
    variance = squares / count - (total / count) ** 2
    return float(f"{max(variance, 0.0) ** 0.5:.3g}")
