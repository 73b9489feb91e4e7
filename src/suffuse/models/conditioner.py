"""Conditioners: from conditions to what a network gets of them. Text comes through the same door later."""

from __future__ import annotations

import abc
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.part import Part

__all__ = ["ClassLabel", "Conditioner", "ConditionerPart", "NoCondition"]


class Conditioner(nn.Module, abc.ABC):
    """Live conditioner.

    Attributes:
        reads: Names of the conditions that it understands.
    """

    reads: tuple[str, ...] = ()

    @abc.abstractmethod
    def forward(self, cond: Conditions, batch: int) -> Embedding:
        """Embed the conditions of `batch` samples; what is absent becomes the learned "no condition"."""


class ConditionerPart(Part, abc.ABC):
    """Configuration of a conditioner."""

    kind: str

    @abc.abstractmethod
    def build(self, width: int) -> Conditioner:
        """Make the live module whose vectors have the network's `cond_width`."""


class _Nothing(Conditioner):
    def forward(self, cond: Conditions, batch: int) -> Embedding:
        return Embedding()


class NoCondition(ConditionerPart):
    """An unconditional model; conditions that are handed in are ignored by name: it reads none."""

    kind: Literal["none"] = "none"

    def build(self, width: int) -> Conditioner:
        """A module without weights."""
        return _Nothing()


class _LabelTable(Conditioner):
    reads = ("label",)

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        rows = torch.empty(classes + 1, width)
        nn.init.normal_(rows, std=0.02, generator=torch.Generator().manual_seed(classes))
        self.table = nn.Embedding(classes + 1, width, _weight=rows)

    def forward(self, cond: Conditions, batch: int) -> Embedding:
        if "label" in cond.values:
            rows = torch.where(cond.present["label"], cond.values["label"], self.classes)
        else:
            rows = torch.full((batch,), self.classes, device=self.table.weight.device)
        return Embedding(vector=self.table(rows))


class ClassLabel(ConditionerPart):
    """A learned vector for each class and one more for "no class", added to the time embedding.

    Source: dhariwal2021adm, Section 3.1; the extra row as in peebles2023dit.

    Attributes:
        classes: Number of classes, K; labels are 0..K-1.
    """

    kind: Literal["class_label"] = "class_label"
    classes: int = Field(ge=1)

    def build(self, width: int) -> Conditioner:
        """A table (K + 1, width)."""
        if width < 1:
            raise UsageError(
                "conditioner 'class_label' needs a network that takes a condition vector; this one has none"
            )
        return _LabelTable(self.classes, width)

    def check_labels(self, labels: Tensor) -> None:
        """Raise a `UsageError` when a label is outside 0..K-1."""
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise UsageError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, but the model knows 0 to "
                f"{self.classes - 1}"
            )
