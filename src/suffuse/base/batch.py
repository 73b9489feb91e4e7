"""Batch: what data hand to objectives."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from suffuse.base.conditions import Conditions

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """A batch of training data. Every tensor's first axis is B.

    Attributes:
        x0: Data, (B, ...), images in [-1, 1]; None for data-free distillation.
        eps: Unit noise that a coupling has already paired with the data, (B, ...).
        cond: Conditions of the samples.
        mask: Where a loss counts, (B, ...).
        features: Precomputed features for alignment, (B, ...).
        index: Place of each sample in its data set, (B,) int64.
    """

    x0: Tensor | None = None
    eps: Tensor | None = None
    cond: Conditions = field(default_factory=Conditions)
    mask: Tensor | None = None
    features: Tensor | None = None
    index: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device (library helpers would leave a dataclass where it is)."""
        moved: dict[str, Any] = {}  # Any: tensors and conditions
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                moved[item.name] = value.to(device, non_blocking=True)
            elif isinstance(value, Conditions):
                moved[item.name] = value.to(device)
        return replace(self, **moved)

    def __getitem__(self, index: slice | Tensor) -> Batch:
        picked: dict[str, Any] = {}  # Any: tensors and conditions
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None:
                picked[item.name] = value[index]
        return Batch(**picked)
