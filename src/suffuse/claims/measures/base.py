"""The contract of measures on trained runs: each is a part, so that it can be named, hashed and reused."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from suffuse.base.part import Part
from suffuse.data import Dataset
from suffuse.tasks.judge import Judge
from suffuse.tasks.runs import OpenRun

__all__ = ["Bench", "MeasurePart"]


@dataclass(frozen=True)
class Bench:
    """A finished run on the bench.

    Attributes:
        run: With its primary average loaded.
        data: What it was trained on.
        judge: Makes the judge of samples by that data; its features are trained when it is first asked for.
    """

    run: OpenRun
    data: Dataset
    judge: Callable[[], Judge]


class MeasurePart(Part, abc.ABC):
    """A measure of a trained run.

    Attributes:
        source: Modules whose code decides the figure, beside the measure's own; see `fingerprint`.
        judged: Whether it asks for the judge, so that the figure depends on its features too.
    """

    kind: str
    source: ClassVar[tuple[str, ...]]
    judged: ClassVar[bool] = False

    @abc.abstractmethod
    def of(self, bench: Bench) -> dict[str, float]:
        """Values by name."""

    @abc.abstractmethod
    def smaller(self) -> MeasurePart:
        """The same measure at the cost of a trial, whose figures mean nothing."""
