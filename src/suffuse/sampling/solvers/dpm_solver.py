"""DPM-Solver++: exponential integrators with a polynomial in the half log-SNR for the data estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.process import Level, PathPart, transfer
from suffuse.sampling.solvers.base import Estimator, OnGrid, SolverPart

__all__ = ["DPMSolverPP"]


@dataclass(frozen=True)
class _Memory(OnGrid):
    """Grid and the estimate of the step before, (B, ...); None before the first step."""

    previous: Tensor | None = None


class DPMSolverPP(SolverPart):
    """DPM-Solver++ multistep (2M): linear in the half log-SNR through the newest two estimates.

    Source: lu2022dpmsolverpp, Algorithm 2.

    Attributes:
        order: 2, or 1 (which is DDIM).
        variant: `midpoint` is the paper's and everybody's default; `heun` integrates the linear term exactly.
        lower_final: Take the last step with order 1 when it does not end at clean data and there are fewer than 15
            steps; the step to clean data is always of order 1, because its width in log-SNR is infinite.
    """

    kind: Literal["dpmpp"] = "dpmpp"
    order: Literal[1, 2] = 2
    variant: Literal["midpoint", "heun"] = "midpoint"
    lower_final: bool = False

    @property
    def convergence(self) -> int:
        """The chosen order: a first step of order 1 costs one local error of order 2."""
        return self.order

    def init(self, x: Tensor, grid: Sequence[float], path: PathPart) -> _Memory:
        """Levels and an empty memory."""
        return _Memory(path, tuple(path.level(t) for t in grid))

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """One evaluation."""
        assert isinstance(state, _Memory)
        here, there = state.levels[i], state.levels[i + 1]
        x0 = denoise(x, float(here.t)).x0
        after = replace(state, previous=x0)
        last = i == len(state.levels) - 2
        lowered = there.sigma == 0 or (self.lower_final and last and len(state.levels) - 1 < 15)
        if self.order == 1 or state.previous is None or lowered:
            return transfer(x, x0, here, there), after
        width, before = _width(here, there), _width(state.levels[i - 1], here)
        slope = (x0 - state.previous) * (width / before)
        if self.variant == "midpoint":
            return transfer(x, x0 + slope / 2, here, there), after
        # Integral of the linear term: alpha_s (expm1(-h) / h + 1) times the slope per step.
        linear = float(there.alpha) * (math.expm1(-width) / width + 1)
        return transfer(x, x0, here, there) + linear * slope, after


def _width(here: Level, there: Level) -> float:
    """Step width in half log-SNR; infinite where alpha is 0 at its start."""
    return float(there.half_log_snr) - float(here.half_log_snr)
