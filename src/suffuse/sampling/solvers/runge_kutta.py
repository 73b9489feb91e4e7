"""Euler and Heun on the probability-flow ODE, in sigma / alpha (EDM's variable) or in the path's own time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.process import Level, PathPart
from suffuse.sampling.solvers.base import Estimate, Estimator, OnGrid, SolverPart

__all__ = ["RK4", "Euler", "Heun", "Midpoint"]

Variable = Literal["sigma", "time"]


@dataclass(frozen=True)
class _Slopes(OnGrid):
    """Grid with what the slopes need.

    Attributes:
        rates: Derivatives (alpha', sigma') at each node, for variable `time`.
        churned: Levels after the noise of churn, one a step; the nodes themselves without churn.
    """

    rates: tuple[tuple[float, float], ...] = ()
    churned: tuple[Level, ...] = ()


def _rho(level: Level) -> float:
    return float(level.sigma / level.alpha)


def _on_grid(variable: Variable, grid: Sequence[float], path: PathPart, kind: str) -> _Slopes:
    levels = tuple(path.level(t) for t in grid)
    if variable == "sigma":
        if float(levels[0].alpha) < 1e-6:
            raise UsageError(
                f"solver {kind!r} in variable 'sigma' starts at sigma/alpha, which is infinite at the first time of "
                f"the grid on path {path.kind!r}; use solver.variable: time, solver ddim, or a grid with a sigma_max"
            )
        return _Slopes(path, levels, churned=levels[:-1])
    exact = torch.tensor(grid, dtype=torch.float64)
    rates = tuple(zip(path.d_alpha(exact).tolist(), path.d_sigma(exact).tolist(), strict=True))
    if any(not math.isfinite(rate) for pair in rates[:-1] for rate in pair):
        raise UsageError(
            f"solver {kind!r} in variable 'time' meets an infinite velocity on path {path.kind!r}; use "
            "solver.variable: sigma, solver ddim, or a grid whose first time is smaller"
        )
    return _Slopes(path, levels, rates=rates, churned=levels[:-1])


def _slope(estimate: Estimate, x: Tensor, level: Level, rates: tuple[float, float] | None) -> Tensor:
    """Derivative of x / alpha in sigma / alpha (which is eps), or of x in time (alpha' x0 + sigma' eps)."""
    eps = estimate.eps(x, level)
    return eps if rates is None else rates[0] * estimate.x0 + rates[1] * eps


def _advance(x: Tensor, slope: Tensor, here: Level, there: Level, variable: Variable) -> Tensor:
    if variable == "time":
        return x + (float(there.t) - float(here.t)) * slope
    return there.alpha * (x / here.alpha + (_rho(there) - _rho(here)) * slope)


class Euler(SolverPart):
    """Order 1. In variable sigma it is DDIM; in variable time on the flow path it is too.

    Source: karras2022edm, Algorithm 1 without correction (sigma); lipman2023flow (time).
    """

    kind: Literal["euler"] = "euler"
    shiftable: ClassVar[bool] = True
    variable: Variable = "sigma"

    @property
    def convergence(self) -> int:
        """One."""
        return 1

    def init(self, x: Tensor, grid: Sequence[float], path: PathPart) -> _Slopes:
        """Levels, and derivatives for variable time."""
        return _on_grid(self.variable, grid, path, self.kind)

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """One evaluation."""
        assert isinstance(state, _Slopes)
        here, there = state.levels[i], state.levels[i + 1]
        rates = state.rates[i] if state.rates else None
        slope = _slope(denoise(x, float(here.t)), x, here, rates)
        return _advance(x, slope, here, there, self.variable), state


class Heun(SolverPart):
    """Order 2: the mean of the slopes at both ends of the step; Euler on the step to clean data.

    Source: karras2022edm, Algorithms 1 and 2.

    Attributes:
        variable: `sigma` integrates x / alpha over sigma / alpha (EDM), `time` integrates x over the path's time.
        churn: S_churn of the stochastic sampler; 0 is deterministic. Only for variable sigma.
        churn_from: S_tmin.
        churn_to: S_tmax.
        churn_noise: S_noise.
    """

    kind: Literal["heun"] = "heun"
    per_step: ClassVar[int] = 2
    shiftable: ClassVar[bool] = True
    variable: Variable = "sigma"
    churn: float = Field(default=0.0, ge=0)
    churn_from: float = Field(default=0.0, ge=0)
    churn_to: float = Field(default=math.inf, gt=0)
    churn_noise: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _churn_in_sigma(self) -> Heun:
        if self.churn and self.variable == "time":
            raise ValueError("churn adds noise in sigma; use variable: sigma, or churn: 0")
        return self

    @property
    def convergence(self) -> int:
        """Two; weakly so with churn at churn_noise 1, which adds noise and time exactly."""
        return 2

    @property
    def stochastic(self) -> bool:
        """With churn."""
        return self.churn > 0

    def evaluations(self, steps: int, *, to_clean: bool = True) -> int:
        """Two a step, one on the step to clean data."""
        return 2 * steps - to_clean

    def init(self, x: Tensor, grid: Sequence[float], path: PathPart) -> _Slopes:
        """Levels, derivatives for variable time, and the levels after churn."""
        state = _on_grid(self.variable, grid, path, self.kind)
        if not self.churn:
            return state
        churned = tuple(self._churned(level, len(grid) - 1, path) for level in state.churned)
        return _Slopes(path, state.levels, churned=churned)

    def _churned(self, level: Level, steps: int, path: PathPart) -> Level:
        """The noisier level that churn moves to before a step."""
        rho = _rho(level)
        if not self.churn_from <= rho <= self.churn_to:
            return level
        raised = rho * (1 + min(self.churn / steps, math.sqrt(2) - 1))
        t = path.t_of(torch.tensor(-math.log(raised), dtype=torch.float64)).item()
        if path.domain[1] < t:
            raise UsageError(
                f"solver.churn raises sigma/alpha from {rho:.4g} to {raised:.4g}, past the end of path {path.kind!r}; "
                f"set solver.churn_to below {rho:.4g}"
            )
        return path.level(t)

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """Two evaluations; one on the step to clean data."""
        assert isinstance(state, _Slopes)
        node, there, here = state.levels[i], state.levels[i + 1], state.churned[i]
        if here is not node:
            added = self.churn_noise * math.sqrt(_rho(here) ** 2 - _rho(node) ** 2)
            x = here.alpha * (x / node.alpha + added * noise.normal("solver", x.shape[1:]).to(x))
        first = _slope(denoise(x, float(here.t)), x, here, state.rates[i] if state.rates else None)
        ahead = _advance(x, first, here, there, self.variable)
        if there.sigma == 0:
            return ahead, state
        rates = state.rates[i + 1] if state.rates else None
        second = _slope(denoise(ahead, float(there.t), substep=1), ahead, there, rates)
        return _advance(x, (first + second) / 2, here, there, self.variable), state


@dataclass(frozen=True)
class _Halved(_Slopes):
    """Slopes at the nodes, and in the middle of each step.

    Attributes:
        middles: Level in the middle of each step; None where the step leads to clean data in variable sigma.
        middle_rates: Derivatives there, for variable `time`.
    """

    middles: tuple[Level | None, ...] = ()
    middle_rates: tuple[tuple[float, float], ...] = ()


def _halved(state: _Slopes, variable: Variable, *, geometric: bool) -> _Halved:
    """The state with the middles of its steps: in time, or in sigma / alpha by the mean or the geometric mean."""
    path, steps = state.path, list(itertools.pairwise(state.levels))
    if variable == "time":
        times = torch.tensor([(float(a.t) + float(b.t)) / 2 for a, b in steps], dtype=torch.float64)
        rates = tuple(zip(path.d_alpha(times).tolist(), path.d_sigma(times).tolist(), strict=True))
        return _Halved(path, state.levels, state.rates, state.churned, tuple(map(path.level, times.tolist())), rates)
    middles: list[Level | None] = []
    for here, there in steps:
        ends = _rho(here), _rho(there)
        middle = math.sqrt(ends[0] * ends[1]) if geometric else (ends[0] + ends[1]) / 2
        if there.sigma == 0:
            middles.append(None)
        else:
            middles.append(path.level(path.t_of(torch.tensor(-math.log(middle), dtype=torch.float64)).item()))
    return _Halved(path, state.levels, state.rates, state.churned, tuple(middles))


class Midpoint(SolverPart):
    """Order 2: the slope in the middle of the step; Euler on the step to clean data in variable sigma.

    In variable sigma the middle is the geometric mean, which is DPM2 of k-diffusion.

    Attributes:
        variable: As for `Heun`.
    """

    kind: Literal["midpoint"] = "midpoint"
    per_step: ClassVar[int] = 2
    shiftable: ClassVar[bool] = True
    variable: Variable = "sigma"

    @property
    def convergence(self) -> int:
        """Two."""
        return 2

    def evaluations(self, steps: int, *, to_clean: bool = True) -> int:
        """Two a step; one on the step to clean data in variable sigma."""
        return 2 * steps - (to_clean and self.variable == "sigma")

    def init(self, x: Tensor, grid: Sequence[float], path: PathPart) -> _Halved:
        """Levels, and derivatives for variable time, at the nodes and between them."""
        return _halved(_on_grid(self.variable, grid, path, self.kind), self.variable, geometric=True)

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """Two evaluations."""
        assert isinstance(state, _Halved)
        here, there, middle = state.levels[i], state.levels[i + 1], state.middles[i]
        first = _slope(denoise(x, float(here.t)), x, here, state.rates[i] if state.rates else None)
        if middle is None:
            return _advance(x, first, here, there, self.variable), state
        between = _advance(x, first, here, middle, self.variable)
        rates = state.middle_rates[i] if state.middle_rates else None
        second = _slope(denoise(between, float(middle.t), substep=1), between, middle, rates)
        return _advance(x, second, here, there, self.variable), state


class RK4(SolverPart):
    """The classical Runge-Kutta method of order 4; Euler on the step to clean data.

    Attributes:
        variable: As for `Heun`.
    """

    kind: Literal["rk4"] = "rk4"
    per_step: ClassVar[int] = 4
    shiftable: ClassVar[bool] = True
    variable: Variable = "time"

    @property
    def convergence(self) -> int:
        """Four."""
        return 4

    def evaluations(self, steps: int, *, to_clean: bool = True) -> int:
        """Four a step, one on the step to clean data."""
        return 4 * steps - 3 * to_clean

    def init(self, x: Tensor, grid: Sequence[float], path: PathPart) -> _Halved:
        """Levels, and derivatives for variable time, at the nodes and between them."""
        return _halved(_on_grid(self.variable, grid, path, self.kind), self.variable, geometric=False)

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """Four evaluations; one on the step to clean data."""
        assert isinstance(state, _Halved)
        here, there, middle = state.levels[i], state.levels[i + 1], state.middles[i]
        rates = state.rates[i] if state.rates else None
        first = _slope(denoise(x, float(here.t)), x, here, rates)
        if there.sigma == 0 or middle is None:
            return _advance(x, first, here, there, self.variable), state
        halfway = state.middle_rates[i] if state.middle_rates else None
        slopes = [first]
        for substep in (1, 2):
            between = _advance(x, slopes[-1], here, middle, self.variable)
            slopes.append(_slope(denoise(between, float(middle.t), substep=substep), between, middle, halfway))
        ahead = _advance(x, slopes[-1], here, there, self.variable)
        rates = state.rates[i + 1] if state.rates else None
        slopes.append(_slope(denoise(ahead, float(there.t), substep=3), ahead, there, rates))
        mean = (slopes[0] + 2 * slopes[1] + 2 * slopes[2] + slopes[3]) / 6
        return _advance(x, mean, here, there, self.variable), state
