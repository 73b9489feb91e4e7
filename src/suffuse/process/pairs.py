"""Pairs of neighbouring noise levels: where consistency is asked for, as functions of keyed draws and of progress.

All is stated in r = sigma / alpha, EDM's sigma, so that grids and gaps of the papers hold on any path.
"""

from __future__ import annotations

import abc
import functools
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import Joint, Part
from suffuse.base.randomness import Draws
from suffuse.process.curriculum import CurriculumPart, Doubling, Fixed, SquareRoot
from suffuse.process.noise_levels import (
    LogitNormal,
    LogNormal,
    LogStudentT,
    NoiseLevelsPart,
    UniformTimes,
    spread_uniform,
)
from suffuse.process.path import PathPart

__all__ = ["GapPairs", "GridPairs", "Pair", "PairsPart", "sigma_over_alpha", "time_at"]

# sigma / alpha beyond which a path has gone on to pure noise.
_PURE = 1e6

Curriculum = Annotated[CurriculumPart, Joint("curriculum", Doubling, SquareRoot, Fixed)]
PairLevels = Annotated[NoiseLevelsPart, Joint("noise levels", LogNormal, LogitNormal, UniformTimes, LogStudentT)]


def sigma_over_alpha(path: PathPart, t: float) -> float:
    """r at a time; infinite where alpha = 0."""
    at = torch.tensor(t, dtype=torch.float64)
    return (path.sigma(at) / path.alpha(at)).item()


def time_at(path: PathPart, r: Tensor) -> Tensor:
    """Times at which sigma / alpha is r, (B,) float64; clean data where r is 0."""
    return torch.where(r > 0, path.t_of(-r.clamp_min(1e-300).log()), path.t_clean)


@dataclass(frozen=True)
class Pair:
    """A noisier and a cleaner time of each sample.

    Attributes:
        t: The noisier, (B,) float64, in the path's unit.
        s: The cleaner, (B,) float64, below t; may be clean data.
        r_t, r_s: sigma / alpha at both, (B,) float64, finite.
        intervals: Of the grid that they are neighbours on; None without a grid.
        rank: Place of t on that grid, (B,) int64, 0 the cleanest point; None without a grid.
    """

    t: Tensor
    s: Tensor
    r_t: Tensor
    r_s: Tensor
    intervals: int | None = None
    rank: Tensor | None = None

    @property
    def gap(self) -> Tensor:
        """r_t - r_s, (B,) float64."""
        return self.r_t - self.r_s


def _checked_levels(levels: NoiseLevelsPart | None) -> NoiseLevelsPart | None:
    """For validators: it is the pairs that are drawn, so theirs is the switch."""
    if levels is not None and levels.stratified:
        raise ValueError("stratified is a switch of the pairs, not of their levels; set pairs.stratified")
    return levels


class PairsPart(Part, abc.ABC):
    """A law of pairs.

    Attributes:
        stratified: Spread the batch's uniform numbers evenly, see `NoiseLevelsPart`.
    """

    kind: str
    stratified: bool = False

    @abc.abstractmethod
    def draw(self, draws: Draws, path: PathPart, step: int, total: int) -> Pair:
        """Pairs of the samples of `draws` at a training step, from 0, of `total`."""

    def shortened(self, total: int) -> PairsPart:
        """The same law for a trial of so few steps."""
        return self

    @abc.abstractmethod
    def check(self, path: PathPart, total: int) -> None:
        """Raise a `UsageError` when path or number of steps do not do."""


def _ends(path: PathPart, stand_in: float) -> tuple[float, float]:
    """sigma / alpha at the path's ends; the stand-in for a path that goes on to pure noise."""
    low, high = (sigma_over_alpha(path, t) for t in (path.t_min, path.t_max))
    return low, high if high <= _PURE else stand_in


@dataclass(frozen=True)
class _Table:
    """A grid: rising times, their sigma / alpha, (intervals + 1,), and the intervals' distribution function."""

    t: Tensor
    r: Tensor
    cumulated: Tensor


@functools.lru_cache(maxsize=64)
def _table(pairs: GridPairs, path: PathPart, intervals: int, device: torch.device) -> _Table:
    """karras2022edm, Eq. 5, upside down."""
    low, high = _ends(path, pairs.r_max)
    r = torch.linspace(low ** (1 / pairs.rho), high ** (1 / pairs.rho), intervals + 1, dtype=torch.float64) ** pairs.rho
    t = time_at(path, r)
    # The ends are the path's own: rounding must not move the boundary, and the prior is sampled from.
    t[0], t[-1] = path.t_min, path.t_max
    shares = torch.ones(intervals, dtype=torch.float64) if pairs.levels is None else pairs.levels.cdf(t, path).diff()
    cumulated = shares.cumsum(0)
    return _Table(t.to(device), r.to(device), (cumulated / cumulated[-1]).to(device))


class GridPairs(PairsPart):
    """Neighbours on a grid evenly spaced in r**(1 / rho), which a curriculum makes finer.

    Sources: song2023consistency, Algorithm 3; song2024ict, Sections 3.4 and 3.5.

    Attributes:
        curriculum: Into how many intervals the noise levels are divided.
        levels: Law of the noise levels, integrated over each interval; every interval equally often when None.
        rho: Of the spacing.
        r_max: What stands for sigma / alpha at the end of paths that go on to pure noise; their last point is `t_max`.
    """

    kind: Literal["grid"] = "grid"
    curriculum: Curriculum = Doubling()
    levels: PairLevels | None = LogNormal(mean=-1.1, std=2.0)
    rho: float = Field(default=7.0, gt=0)
    r_max: float = Field(default=80.0, gt=0)

    @field_validator("levels")
    @classmethod
    def _not_spread(cls, levels: NoiseLevelsPart | None) -> NoiseLevelsPart | None:
        return _checked_levels(levels)

    def grid(self, path: PathPart, intervals: int) -> tuple[Tensor, Tensor]:
        """Rising times from `t_min` to `t_max` and their sigma / alpha, (intervals + 1,) float64 each."""
        table = _table(self, path, intervals, torch.device("cpu"))
        return table.t, table.r

    def probabilities(self, path: PathPart, intervals: int) -> Tensor:
        """How often each interval is drawn, (intervals,) float64, cleanest first; they sum to 1."""
        cumulated = _table(self, path, intervals, torch.device("cpu")).cumulated
        return torch.diff(cumulated, prepend=torch.zeros(1, dtype=torch.float64))

    def draw(self, draws: Draws, path: PathPart, step: int, total: int) -> Pair:
        """Neighbours i and i + 1 of the grid of this step."""
        intervals = self.curriculum.intervals(step, total)
        table = _table(self, path, intervals, draws.index.device)
        u = spread_uniform(draws, "times") if self.stratified else draws.uniform("times")
        i = torch.searchsorted(table.cumulated, u, right=True).clamp_max(intervals - 1)
        return Pair(table.t[i + 1], table.t[i], table.r[i + 1], table.r[i], intervals, i + 1)

    def shortened(self, total: int) -> GridPairs:
        """With a curriculum that fits."""
        return self.replace(curriculum=self.curriculum.shortened(total))

    def check(self, path: PathPart, total: int) -> None:
        """The boundary must have noise, the grid must rise, and the curriculum must fit into the steps."""
        low, high = _ends(path, self.r_max)
        if not 0 < low < high:
            raise UsageError(
                f"pairs 'grid' need noise at the path's t_min and more of it at its end, but path {path.kind!r} has "
                f"sigma / alpha from {low:g} to {high:g}; raise its least time above clean data, or pairs.r_max"
            )
        if self.levels is not None:
            self.levels.check(path)
        self.curriculum.check(total)


class GapPairs(PairsPart):
    """Continuous times with a gap that shrinks: from denoising (s is clean data) to consistency.

    r_s = r_t (1 - q**-(stage + 1) (1 + k sigmoid(-b r_t))), not below clean data.

    Source: geng2024ect, Section 4.

    Attributes:
        levels: Law of the noisier time.
        q: How much the gap shrinks from stage to stage.
        stages: Number of stages, of equal length; the paper's 1 with q = 256 is the short recipe.
        k, b: Widen the gap near clean data.
        least: Gap relative to r_t that is never fallen short of, at 0 the schedule's own.
    """

    kind: Literal["gap"] = "gap"
    levels: PairLevels = LogNormal(mean=-1.1, std=2.0)
    q: float = Field(default=2.0, gt=1)
    stages: int = Field(default=8, ge=1)
    k: float = Field(default=8.0, ge=0)
    b: float = Field(default=1.0, gt=0)
    least: float = Field(default=0.0, ge=0, lt=1)

    @field_validator("levels")
    @classmethod
    def _not_spread(cls, levels: NoiseLevelsPart) -> NoiseLevelsPart | None:
        return _checked_levels(levels)

    def cleaner(self, r_t: Tensor, step: int, total: int) -> Tensor:
        """r_s of r_t at a step: (B,) -> (B,) float64, at least 0."""
        stage = min(step * self.stages // total, self.stages - 1)
        share = max(self.q ** -(stage + 1.0), self.least)
        kept: Tensor = r_t * (1 - share * (1 + self.k * torch.sigmoid(-self.b * r_t)))
        return kept.clamp_min(0)

    def draw(self, draws: Draws, path: PathPart, step: int, total: int) -> Pair:
        """A time by `levels`, and its cleaner companion."""
        u = spread_uniform(draws, "times") if self.stratified else draws.uniform("times")
        t = self.levels.quantile(u, path)
        r_t = path.sigma(t) / path.alpha(t)
        r_s = self.cleaner(r_t, step, total)
        return Pair(t, time_at(path, r_s), r_t, r_s)

    def shortened(self, total: int) -> GapPairs:
        """With as many stages as fit."""
        return self.replace(stages=min(self.stages, total))

    def check(self, path: PathPart, total: int) -> None:
        """Every stage needs a step."""
        self.levels.check(path)
        last = self.levels.quantile(torch.tensor([1 - 1e-9], dtype=torch.float64), path)
        if not bool((path.sigma(last) / path.alpha(last)).isfinite()):
            raise UsageError(
                f"pairs 'gap' need sigma / alpha, but levels {self.levels.kind!r} draw the end of path {path.kind!r}, "
                "where it is infinite; use levels that stop before it (levels.beyond=0), or pairs=grid"
            )
        if total < self.stages:
            raise UsageError(
                f"pairs 'gap' have {self.stages} stages, but the run has only {total} steps; raise training.steps or "
                "lower pairs.stages"
            )
