"""Metrics between two estimates of a sample, from least squares to losses that forget outliers."""

from __future__ import annotations

import abc
import math
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from suffuse.base.part import Joint, Part

__all__ = ["L1", "L2", "Cauchy", "GemanMcClure", "PairMetric", "PairMetricPart", "PseudoHuber", "adaptive_c"]

_BY_SIZE = 0.00054


def adaptive_c(intervals: int) -> float:
    """c that follows the residuals' spread as the grid gets finer: exp(-1.15 log N - 0.85). Source: dao2025slct."""
    return math.exp(-1.15 * math.log(intervals) - 0.85)


class PairMetricPart(Part, abc.ABC):
    """Distance of two estimates of the same sample.

    Attributes:
        reduce: Squared differences are summed over a sample's elements or averaged; c means something else in either.
    """

    kind: str
    reduce: Literal["sum", "mean"] = "sum"

    def of(self, mine: Tensor, target: Tensor, intervals: int | None = None) -> Tensor:
        """Distances, (B,) float32.

        Args:
            mine: What is trained, (B, ...).
            target: What it shall be, (B, ...); no gradient reaches it.
            intervals: Of the grid, for a c that follows it; None without a grid.
        """
        difference = (mine - target.detach()).float().flatten(1)
        return self.distance(difference, difference.shape[1], intervals)

    @abc.abstractmethod
    def distance(self, difference: Tensor, size: int, intervals: int | None) -> Tensor:
        """Distances of differences (B, size), (B,)."""

    def squared(self, difference: Tensor) -> Tensor:
        """Squared norms by `reduce`, (B,)."""
        squares = difference.square()
        return squares.sum(1) if self.reduce == "sum" else squares.mean(1)


class L2(PairMetricPart):
    """Squared distance."""

    kind: Literal["l2"] = "l2"
    reduce: Literal["sum", "mean"] = "mean"

    def distance(self, difference: Tensor, size: int, intervals: int | None) -> Tensor:
        """Sum or mean of squares."""
        return self.squared(difference)


class L1(PairMetricPart):
    """Absolute differences."""

    kind: Literal["l1"] = "l1"
    reduce: Literal["sum", "mean"] = "mean"

    def distance(self, difference: Tensor, size: int, intervals: int | None) -> Tensor:
        """Sum or mean of absolute values."""
        return difference.abs().sum(1) if self.reduce == "sum" else difference.abs().mean(1)


class _Robust(PairMetricPart):
    """A metric that is a square for differences below c.

    Attributes:
        c: A number; `size` is 0.00054 sqrt(d) for samples of d elements (song2024ict); `grid` is that while the grid
            has `first` intervals, and follows the residuals' spread from then on, see `adaptive_c` (dao2025slct).
        first: See `grid`.
    """

    c: Annotated[float, Field(ge=0)] | Literal["size", "grid"] = "size"
    first: int = Field(default=10, ge=1)

    def c_of(self, size: int, intervals: int | None) -> float:
        """c for samples of `size` elements on a grid."""
        if isinstance(self.c, float):
            return self.c
        if self.c == "size" or intervals is None or intervals <= self.first:
            return _BY_SIZE * math.sqrt(size)
        return adaptive_c(intervals)


class PseudoHuber(_Robust):
    """sqrt(|x|**2 + c**2) - c: a square near zero, the plain norm far away; c = 0 is the norm. Source: song2024ict."""

    kind: Literal["pseudo_huber"] = "pseudo_huber"

    def distance(self, difference: Tensor, size: int, intervals: int | None) -> Tensor:
        """The norm is that of the whole sample."""
        c = self.c_of(size, intervals)
        if c == 0:  # the root has no derivative at zero, the norm's is taken to be zero there
            norm: Tensor = torch.linalg.vector_norm(difference, dim=1)
            return norm if self.reduce == "sum" else norm / math.sqrt(size)
        # Written so that nothing cancels where the difference is far below c.
        squared = self.squared(difference)
        return squared / ((squared + c * c).sqrt() + c)


class _Dividing(_Robust):
    """A robust metric that divides by c."""

    @field_validator("c")
    @classmethod
    def _positive(cls, c: float | str) -> float | str:
        if c == 0:
            raise ValueError("c must be above 0, it is divided by; pseudo_huber takes 0")
        return c


class Cauchy(_Dividing):
    """log(1 + |x|**2 / (2 c**2)): its derivative falls like 2 / |x| for outliers. Source: dao2025slct, Section 4.1."""

    kind: Literal["cauchy"] = "cauchy"
    reduce: Literal["sum", "mean"] = "mean"

    def distance(self, difference: Tensor, size: int, intervals: int | None) -> Tensor:
        """Of sum or mean of squares."""
        return torch.log1p(self.squared(difference) / (2 * self.c_of(size, intervals) ** 2))


class GemanMcClure(_Dividing):
    """2 |x|**2 / (|x|**2 + 4 c**2): outliers are forgotten altogether. Source: dao2025slct, Section 4.1."""

    kind: Literal["geman_mcclure"] = "geman_mcclure"
    reduce: Literal["sum", "mean"] = "mean"

    def distance(self, difference: Tensor, size: int, intervals: int | None) -> Tensor:
        """Of sum or mean of squares."""
        squared = self.squared(difference)
        return 2 * squared / (squared + 4 * self.c_of(size, intervals) ** 2)


PairMetric = Annotated[PairMetricPart, Joint("metric", PseudoHuber, L2, L1, Cauchy, GemanMcClure)]
