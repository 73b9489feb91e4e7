"""Curricula: into how many intervals the noise levels are divided, as functions of the step: resume is exact."""

from __future__ import annotations

import abc
import math
from typing import Literal

from pydantic import Field, model_validator

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.process.path import check_below

__all__ = ["CurriculumPart", "Doubling", "Fixed", "SquareRoot"]


class CurriculumPart(Part, abc.ABC):
    """Number of intervals between neighbouring noise levels; a grid has one point more than intervals."""

    kind: str

    @abc.abstractmethod
    def intervals(self, step: int, total: int) -> int:
        """Intervals at a step, from 0, of `total`."""

    def check(self, total: int) -> None:
        """Raise a `UsageError` when so many training steps cannot hold the curriculum."""
        most = self.intervals(total - 1, total)
        if most > total:
            raise UsageError(
                f"curriculum {self.kind!r} ends with {most} intervals, but the run has only {total} steps; raise "
                f"training.steps, or lower the curriculum's last number of intervals to {total} at most"
            )

    def shortened(self, total: int) -> CurriculumPart:
        """The same kind of curriculum for a trial of so few steps."""
        return self if self.intervals(total - 1, total) <= total else Fixed(count=total)


class Fixed(CurriculumPart):
    """The same number throughout: what distillation uses."""

    kind: Literal["fixed"] = "fixed"
    count: int = Field(default=18, ge=1)

    def intervals(self, step: int, total: int) -> int:
        """`count`."""
        return self.count


class SquareRoot(CurriculumPart):
    """Points grow like the square root of progress, from s0 to s1 + 1. Source: song2023consistency, Appendix C."""

    kind: Literal["square_root"] = "square_root"
    s0: int = Field(default=2, ge=2)
    s1: int = Field(default=150, ge=2)

    @model_validator(mode="after")
    def _ordered(self) -> SquareRoot:
        check_below(s0=self.s0, s1=self.s1)
        return self

    def intervals(self, step: int, total: int) -> int:
        """N(k) - 1 with N(k) = ceil(sqrt(k / K ((s1 + 1)**2 - s0**2) + s0**2) - 1) + 1."""
        return math.ceil(math.sqrt(step / total * ((self.s1 + 1) ** 2 - self.s0**2) + self.s0**2) - 1)


class Doubling(CurriculumPart):
    """Intervals double in stages of equal length, from s0 to s1. Source: song2024ict, Section 3.4."""

    kind: Literal["doubling"] = "doubling"
    s0: int = Field(default=10, ge=1)
    s1: int = Field(default=1280, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Doubling:
        if self.s0 > self.s1:
            raise ValueError(f"s0 {self.s0} is above s1 {self.s1}; swap them")
        return self

    @property
    def stages(self) -> int:
        """How many there are."""
        return math.ceil(math.log2(self.s1 / self.s0)) + 1

    def intervals(self, step: int, total: int) -> int:
        """min(s0 2**floor(k / K'), s1) with K' = floor(K / stages): the last stage, too, has its share where s1 is no
        power of two times s0, for which the source's logarithm leaves it a fraction.
        """
        return min(self.s0 << (step // max(total // self.stages, 1)), self.s1)

    def check(self, total: int) -> None:
        """Every stage needs a step too."""
        if total < self.stages:
            raise UsageError(
                f"curriculum 'doubling' from {self.s0} to {self.s1} intervals has {self.stages} stages, but the run "
                f"has only {total} steps; raise training.steps or lower s1"
            )
        super().check(total)
