"""Guidances that act within an interval of noise levels."""

from __future__ import annotations

import abc
import math
from typing import Self

from pydantic import Field, model_validator

from suffuse.process import Level
from suffuse.sampling.guidance.base import GuidancePart

__all__ = ["Interval"]


class Interval(GuidancePart, abc.ABC):
    """A guidance with noise levels at which it guides; at the others the model is asked as it is, for one evaluation.

    Source: kynkaanniemi2024interval, Eq. 5.

    Attributes:
        above: Guide only where sigma / alpha is greater than this.
        up_to: Guide only where sigma / alpha is at most this.
    """

    above: float = Field(default=0.0, ge=0)
    up_to: float = Field(default=math.inf, gt=0)

    @model_validator(mode="after")
    def _interval(self) -> Self:
        if self.above >= self.up_to:
            raise ValueError(f"above {self.above} is not below up_to {self.up_to}; swap them or widen the interval")
        return self

    def covers(self, level: Level) -> bool:
        """Whether it guides at a level; one for the whole batch."""
        return self.above < math.exp(-float(level.half_log_snr)) <= self.up_to
