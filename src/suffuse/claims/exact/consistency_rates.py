"""How far one jump of a consistency model misses the data's law, computed without a network on a mixture on the line.

The discrete consistency map is the end of a recursion over the grid: f_1 = id, and f_{i+1} is f_i after one solver step
with the exact score (distillation), or the mean of f_i over the posterior of the cleaner point (training without a
teacher, for the L2 loss). Both are what perfect training would reach; their distance to the data's law is the bias.
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import ndtr, roots_hermitenorm

from suffuse.claims.exact.base import ExactPart

__all__ = ["ConsistencyBias", "Line", "StatisticalRate", "karras", "one_step_map"]

Array = NDArray[np.float64]
Method = Literal["euler", "heun", "isolation"]

_EPS, _T, _RHO = 0.002, 80.0, 7.0
_POINTS, _NODES = 6001, 24  # of the tables of f, and of the quadrature in each component
_LEVELS = 4000  # quantiles by which laws are compared


class Line:
    """A mixture of normals on the line, under EDM's path: x_t = x0 + t z.

    Args:
        weights, means, stds: Of the components, (K,).
    """

    def __init__(self, weights: Array, means: Array, stds: Array) -> None:
        self.weights, self.means, self.stds = weights / weights.sum(), means, stds

    @classmethod
    def three(cls) -> Line:
        """Three separated modes of different weight and width."""
        return cls(np.array([0.5, 0.3, 0.2]), np.array([-0.6, 0.2, 0.75]), np.array([0.12, 0.10, 0.15]))

    @classmethod
    def normal(cls, std: float = 0.5) -> Line:
        """N(0, std**2)."""
        return cls(np.ones(1), np.zeros(1), np.full(1, std))

    @cached_property
    def scale(self) -> float:
        """Standard deviation of the data."""
        return math.sqrt(float(np.sum(self.weights * (self.stds**2 + self.means**2)) - self.mean**2))

    @property
    def mean(self) -> float:
        """Of the data."""
        return float(np.sum(self.weights * self.means))

    def _responsibilities(self, x: Array, t: float) -> tuple[Array, Array]:
        """Posterior weights of the components (N, K), and their variances at t, (K,)."""
        variance = self.stds**2 + t**2
        log = np.log(self.weights) - 0.5 * (x[:, None] - self.means) ** 2 / variance - 0.5 * np.log(variance)
        log -= log.max(1, keepdims=True)
        share = np.exp(log)
        return share / share.sum(1, keepdims=True), variance

    def denoise(self, x: Array, t: float) -> Array:
        """E[x0 | x_t = x], (N,)."""
        share, variance = self._responsibilities(x, t)
        mean: Array = np.sum(share * (self.means + self.stds**2 / variance * (x[:, None] - self.means)), 1)
        return mean

    def posterior(self, x: Array, t: float) -> tuple[Array, Array, Array]:
        """Weights (N, K), means (N, K) and variances (K,) of x0 given x_t = x."""
        share, variance = self._responsibilities(x, t)
        means = self.means + self.stds**2 / variance * (x[:, None] - self.means)
        return share, means, self.stds**2 * t**2 / variance

    def quantile(self, u: Array, t: float) -> Array:
        """Quantiles of the law of x_t: (N,) in (0, 1) -> (N,), by bisection."""
        std = np.sqrt(self.stds**2 + t**2)
        low = np.full_like(u, float((self.means - 12 * std).min()))
        high = np.full_like(u, float((self.means + 12 * std).max()))
        for _ in range(80):
            middle = (low + high) / 2
            below = np.sum(self.weights * ndtr((middle[:, None] - self.means) / std), 1) < u
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return (low + high) / 2


def karras(intervals: int) -> Array:
    """Rising noise levels, (intervals + 1,)."""
    i = np.arange(intervals + 1) / intervals
    levels: Array = (_EPS ** (1 / _RHO) + i * (_T ** (1 / _RHO) - _EPS ** (1 / _RHO))) ** _RHO
    return levels


def one_step_map(line: Line, x: Array, intervals: int, method: Method) -> Array:
    """The discrete consistency map from T to eps of a grid with so many intervals: (N,) -> (N,)."""
    t = karras(intervals)
    return _averaged(line, x, t) if method == "isolation" else _solved(line, x, t, heun=method == "heun")


def _solved(line: Line, x: Array, t: Array, *, heun: bool) -> Array:
    """Distillation's limit is the solver's own chain of steps."""
    for here, there in zip(t[:0:-1], t[-2::-1], strict=True):
        slope = (x - line.denoise(x, here)) / here
        moved = x + (there - here) * slope
        if heun:
            moved = x + (there - here) * (slope + (moved - line.denoise(moved, there)) / there) / 2
        x = moved
    return x


def _averaged(line: Line, x: Array, t: Array) -> Array:
    """Training without a teacher: tables of f, and quadrature over each component of the posterior."""
    nodes, weights = roots_hermitenorm(_NODES)
    weights = weights / weights.sum()

    def places(at: float) -> Array:
        return line.mean + np.linspace(-8, 8, _POINTS) * math.sqrt(line.scale**2 + at**2)

    grid = places(t[0])
    values = grid.copy()
    for cleaner, noisier in pairwise(t.tolist()):
        at = x if noisier == t[-1] else places(noisier)
        share, means, variances = line.posterior(at, noisier)
        # x0 and x_t fix the noise, so the cleaner point is a mixture of the two.
        ratio = cleaner / noisier
        inner = ratio * at[:, None] + (1 - ratio) * means
        spread = (1 - ratio) * np.sqrt(variances)
        points = inner[:, :, None] + spread[None, :, None] * nodes
        found = np.interp(points.ravel(), grid, values).reshape(points.shape)
        grid, values = at, np.sum(share * np.sum(found * weights, 2), 1)
    return values


class ConsistencyBias(ExactPart):
    """W1 distance between the law of one jump and the data's law at eps, by the number of the grid's intervals.

    Values: w1@N, std_ratio@N, and slope: of log w1 over log N from the fourth number of intervals on.

    Attributes:
        method: Solver steps with the exact score, or training without a teacher.
        data: `three` modes, or a `normal` law.
        intervals: Of the grids.
    """

    kind: Literal["consistency_bias"] = "consistency_bias"
    method: Method = "euler"
    data: Literal["three", "normal"] = "three"
    intervals: tuple[int, ...] = (16, 32, 64, 128, 256, 512)

    def of(self, seed: int) -> dict[str, float]:
        """Deterministic: the seed changes nothing."""
        line = Line.three() if self.data == "three" else Line.normal()
        u = (np.arange(_LEVELS) + 0.5) / _LEVELS
        start, exact = line.quantile(u, _T), line.quantile(u, _EPS)
        values: dict[str, float] = {}
        for count in self.intervals:
            made = np.sort(one_step_map(line, start, count, self.method))
            values[f"w1@{count}"] = float(np.abs(made - exact).mean())
            values[f"std_ratio@{count}"] = float(made.std() / exact.std())
        late = [count for count in self.intervals if count >= 64]
        logs = np.log([values[f"w1@{count}"] for count in late])
        values["slope"] = float(np.polyfit(np.log(late), logs, 1)[0])
        return values

    def smaller(self) -> ConsistencyBias:
        """Two coarse grids."""
        return self.replace(intervals=(64, 128))


class StatisticalRate(ExactPart):
    """W1 to the true law from the score of n samples, smoothed: by one consistency jump and by many small steps.

    Values: one@n, many@n, slope_one, slope_many and slope_gap, their difference.

    Attributes:
        counts: Numbers of samples.
        bandwidth: Smoothing at n = 1; it falls like n**(-1/5), Silverman's rate.
        jump: Intervals of the jump's grid, by Heun steps.
        many: Steps of the sampler that it is compared with, DDPM's.
        levels: Quantiles that are followed.
    """

    kind: Literal["statistical_rate"] = "statistical_rate"
    counts: tuple[int, ...] = (30, 100, 300, 1000)
    bandwidth: float = Field(default=0.3, gt=0)
    jump: int = Field(default=64, ge=2)
    many: int = Field(default=500, ge=2)
    levels: int = Field(default=2000, ge=10)

    def of(self, seed: int) -> dict[str, float]:
        """Samples of the three modes by seed."""
        line, random = Line.three(), np.random.default_rng(seed)
        u = (np.arange(self.levels) + 0.5) / self.levels
        exact = line.quantile(u, _EPS)
        values: dict[str, float] = {}
        for count in self.counts:
            which = random.choice(3, size=count, p=line.weights)
            points = line.means[which] + line.stds[which] * random.standard_normal(count)
            learned = Line(np.ones(count), points, np.full(count, self.bandwidth * count**-0.2))
            start = learned.quantile(u, _T)
            one = np.sort(one_step_map(learned, start, self.jump, "heun"))
            many = np.sort(_ancestral(learned, start, self.many, random))
            values[f"one@{count}"] = float(np.abs(one - exact).mean())
            values[f"many@{count}"] = float(np.abs(many - exact).mean())
        x = np.log(self.counts)
        for name in ("one", "many"):
            logs = np.log([values[f"{name}@{count}"] for count in self.counts])
            values[f"slope_{name}"] = float(np.polyfit(x, logs, 1)[0])
        return values | {"slope_gap": abs(values["slope_one"] - values["slope_many"])}

    def smaller(self) -> StatisticalRate:
        """Few points in few steps."""
        return self.replace(counts=(10, 20), jump=8, many=20, levels=50)


def _ancestral(line: Line, x: Array, steps: int, random: np.random.Generator) -> Array:
    """DDPM's sampler on the same grid: the posterior of the cleaner point at the estimate of the data."""
    t = karras(steps)
    for here, there in zip(t[:0:-1], t[-2::-1], strict=True):
        ratio = (there / here) ** 2
        mean = ratio * x + (1 - ratio) * line.denoise(x, here)
        x = mean + there * math.sqrt(1 - ratio) * random.standard_normal(len(x))
    return x
