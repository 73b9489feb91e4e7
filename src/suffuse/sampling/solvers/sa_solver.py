"""SA-Solver: stochastic Adams steps with a predictor, a corrector and noise of any strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.process import Level
from suffuse.sampling.solvers.base import Estimator, OnGrid, SolverPart, stochastic_transfer
from suffuse.sampling.solvers.exponential import finite_run, lagrange, quadrature, width

__all__ = ["SASolver"]


@dataclass(frozen=True)
class _Memory(OnGrid):
    """Grid, and what the corrector needs of the step before.

    Attributes:
        past: Estimates of the steps before, newest first.
        start: Where the step before started, (B, ...); None before the first step.
        drawn: The noise that it put on, scaled; None where it put on none.
    """

    past: tuple[Tensor, ...] = ()
    start: Tensor | None = None
    drawn: Tensor | None = None


class SASolver(SolverPart):
    """SA-Solver in its data form.

    The step solves dx for the SDE whose noise is tau times the reverse SDE's: tau 0 is the probability-flow ODE, 1 the
    reverse SDE. The corrector repeats a step with the same noise and the estimate at its end, at no evaluation.

    Source: xue2023sasolver, Algorithm 1, with exact integrals of Lagrange's polynomials.

    Attributes:
        order: Estimates that the predictor uses.
        correct: Estimates that the corrector uses, the one at the step's end included; 0 for no corrector.
        tau: Strength of the noise.
        above, up_to: Noise only where sigma / alpha lies between.
    """

    kind: Literal["sa"] = "sa"
    memory: ClassVar[type[OnGrid]] = _Memory
    order: Literal[1, 2, 3] = 2
    correct: Literal[0, 2, 3] = 2
    tau: float = Field(default=1.0, ge=0)
    above: float = Field(default=0.0, ge=0)
    up_to: float = Field(default=math.inf, gt=0)

    @model_validator(mode="after")
    def _interval(self) -> SASolver:
        if self.above >= self.up_to:
            raise ValueError(f"above {self.above} is not below up_to {self.up_to}; swap them or widen the interval")
        if self.correct and self.correct < self.order:
            raise ValueError(
                f"a corrector through {self.correct} estimates undoes a predictor through {self.order}; raise correct, "
                "or set it to 0"
            )
        return self

    @property
    def convergence(self) -> int:
        """With a first step of order 1, which a corrector raises to 2; weakly, and at most 2, with noise."""
        return self.interior if self.correct else min(self.order, 2)

    @property
    def interior(self) -> int:
        """The corrector's, but at most one more than the predictor's; weakly, and at most 2, with noise."""
        found = min(self.order + 1, self.correct) if self.correct else self.order
        return min(found, 2) if self.tau else found

    @property
    def stochastic(self) -> bool:
        """With noise."""
        return self.tau > 0

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """One evaluation."""
        assert isinstance(state, _Memory)
        levels = state.levels
        estimate = denoise(x, float(levels[i].t))
        if self.correct and state.start is not None and finite_run(levels, i - 1, 1):
            x = self._corrected(state, i - 1, estimate.x0)
        known = (estimate.x0, *state.past)
        here, there = levels[i], levels[i + 1]
        order = min(self.order, len(known), finite_run(levels, i, self.order))
        tau = self._tau(here)
        std = float(there.sigma) * math.sqrt(-math.expm1(-2 * tau**2 * width(here, there))) if tau else 0.0
        drawn = std * noise.normal("solver", x.shape[1:]).to(x) if std else None
        if not order:  # of infinite width: from pure noise, or to clean data
            mean, _ = stochastic_transfer(estimate, x, here, there, eta=1.0 if tau else 0.0)
        else:
            mean = self._mean(levels, i, x, known[:order], [-k for k in range(order)])
        kept = known[: max(self.order, self.correct) - 1] if max(self.order, self.correct) > 1 else known[:1]
        after = _Memory(state.path, levels, kept, x, drawn)
        return (mean if drawn is None else mean + drawn), after

    def _tau(self, level: Level) -> float:
        """Strength of the noise of a step that starts at a level."""
        return self.tau if self.above < math.exp(-float(level.half_log_snr)) <= self.up_to else 0.0

    def _corrected(self, state: _Memory, i: int, arrival: Tensor) -> Tensor:
        """Where step i should have arrived, by the estimate at its end, with its own noise."""
        assert state.start is not None
        count = min(self.correct - 1, len(state.past), finite_run(state.levels, i, self.correct))
        known = (arrival, *state.past[:count])
        mean = self._mean(state.levels, i, state.start, known, [1, *(-k for k in range(count))])
        return mean if state.drawn is None else mean + state.drawn

    def _mean(
        self, levels: Sequence[Level], i: int, x: Tensor, known: Sequence[Tensor], places: Sequence[int]
    ) -> Tensor:
        """The mean of step i with a polynomial through estimates.

        Args:
            levels: Of the grid.
            i: The step.
            x: Where it starts, (B, ...).
            known: Estimates.
            places: Of each, the grid point it belongs to, counted from the step's start.
        """
        here, there = levels[i], levels[i + 1]
        tau = self._tau(here)
        rate, start, end = 1 + tau**2, float(here.half_log_snr), float(there.half_log_snr)
        points, weights = quadrature(start, end)
        nodes = [float(levels[i + place].half_log_snr) for place in places]
        factors = float(there.alpha) * rate * (lagrange(nodes, points) * np.exp(-rate * (end - points))) @ weights
        mean = float(there.sigma / here.sigma) * math.exp(-(tau**2) * (end - start)) * x
        for factor, value in zip(factors.tolist(), known, strict=True):
            mean = mean + factor * value
        return mean
