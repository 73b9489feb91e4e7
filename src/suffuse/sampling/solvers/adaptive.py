"""Steps chosen by their error: two steps from the same estimates, whose difference says whether they are too long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.errors import RunError, UsageError
from suffuse.base.randomness import Draws
from suffuse.process import Level, PathPart, transfer
from suffuse.sampling.solvers.base import Estimator, OnGrid, SolverPart
from suffuse.sampling.solvers.exponential import lagrange, quadrature, width

__all__ = ["Adaptive"]

_MOST = 10_000  # trials between two points of the grid
_SAFETY, _GROWTH = 0.9, 3.0
_ARRIVED = 1e-9  # width in half log-SNR that is no step any more
_FIRST = 0.05  # step width in half log-SNR that is tried first


@dataclass(frozen=True)
class _Going(OnGrid):
    """Grid, and the step width that is tried next."""

    tried: float = _FIRST


class Adaptive(SolverPart):
    """Embedded pair of orders 2 and 3 in the half log-SNR with a tolerance; the grid says where it must stop.

    The step is DPM-Solver++ 2S; the parabola through the data estimates at its start, middle and end judges it, and the
    last of them is the next step's first: two evaluations a step.

    A grid of one step leaves all to the tolerance. How many evaluations that takes is counted, not known beforehand.
    The samples of a batch share their steps, so that the worst of them decides.

    Source: lu2022dpmsolver, Appendix C, for the rule of step widths; the pair is ours, because one of orders 1 and 2
    takes no look at the end of a step and jumps over what lies there.

    Attributes:
        rtol: Error of a step over the size of the sample.
        atol: Error that is always allowed.
    """

    kind: Literal["adaptive"] = "adaptive"
    rtol: float = Field(default=0.01, gt=0)
    atol: float = Field(default=0.002, gt=0)

    @property
    def convergence(self) -> int:
        """Of the better of the pair, between points of the grid."""
        return 2

    def evaluations(self, steps: int, *, to_clean: bool = True) -> int:
        """Refused: the tolerance decides.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "solver 'adaptive' takes as many evaluations as its tolerance asks for, so nfe cannot be given; give steps "
            "(1 leaves all to the tolerance) and solver.rtol"
        )

    def init(self, x: Tensor, grid: Sequence[float], path: PathPart) -> _Going:
        """Levels, and a short first step."""
        return _Going(path, tuple(path.level(t) for t in grid))

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """As many evaluations as the tolerance asks for: two for each step, accepted or not, and one for the first."""
        assert isinstance(state, _Going)
        here, there, path = state.levels[i], state.levels[i + 1], state.path
        if not math.isfinite(float(here.half_log_snr)):  # pure noise says nothing of the step
            return transfer(x, denoise(x, float(here.t)).x0, here, there), state
        stop = path.level(path.t_min) if there.sigma == 0 else there
        h, first = state.tried, denoise(x, float(here.t)).x0
        for _ in range(_MOST):
            left = width(here, stop)
            if left <= _ARRIVED:
                break
            h = min(h, left)
            middle, end = self._level(path, here, h / 2, stop), stop if h == left else self._level(path, here, h, stop)
            second = denoise(transfer(x, first, here, middle), float(middle.t), substep=1).x0
            moved = transfer(x, second, here, end)
            third = denoise(moved, float(end.t), substep=2).x0
            error = self._error(self._parabola(x, (first, second, third), (here, middle, end)), moved, x)
            if not math.isfinite(error):
                raise RunError("solver 'adaptive' met samples that are not finite; look at the model's output")
            grown = h * min(_GROWTH, max(0.2, _SAFETY * max(error, 1e-10) ** (-1 / 3)))
            if error <= 1:
                x, here, first = moved, end, third
            h = grown
        else:
            raise RunError(
                f"solver 'adaptive' has tried {_MOST} steps without an end; raise solver.rtol or solver.atol"
            )
        return (x if there is stop else transfer(x, first, here, there)), replace(state, tried=max(h, 1e-4))

    @staticmethod
    def _parabola(x: Tensor, values: tuple[Tensor, ...], levels: tuple[Level, ...]) -> Tensor:
        """The step with a parabola through three data estimates: (B, ...)."""
        lam = [float(level.half_log_snr) for level in levels]
        points, weights = quadrature(lam[0], lam[-1])
        factors = float(levels[-1].alpha) * (lagrange(lam, points) * np.exp(points - lam[-1])) @ weights
        moved = float(levels[-1].sigma / levels[0].sigma) * x
        for factor, value in zip(factors.tolist(), values, strict=True):
            moved = moved + factor * value
        return moved

    def _error(self, low: Tensor, high: Tensor, x: Tensor) -> float:
        """The worst sample's error over what is allowed."""
        allowed = (self.rtol * torch.maximum(low.abs(), x.abs())).clamp_min(self.atol)
        return float(((high - low) / allowed).flatten(1).square().mean(1).sqrt().max())

    @staticmethod
    def _level(path: PathPart, here: Level, h: float, stop: Level) -> Level:
        """The level a width further on, never beyond the stop."""
        lam = min(float(here.half_log_snr) + h, float(stop.half_log_snr))
        return path.level(path.t_of(torch.tensor(lam, dtype=torch.float64)).item())
