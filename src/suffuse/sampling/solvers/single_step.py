"""DPM-Solver and DPM-Solver++ in their single-step forms: evaluations within the step instead of a memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.process import Level, PathPart, transfer
from suffuse.sampling.solvers.base import Estimator, OnGrid, SolverPart
from suffuse.sampling.solvers.exponential import noise_transfer, width

__all__ = ["DPMSolver"]


@dataclass(frozen=True)
class _Within(OnGrid):
    """Grid, and the levels inside each step; none where a step is of order 1."""

    inside: tuple[tuple[Level, ...], ...] = ()


class DPMSolver(SolverPart):
    """DPM-Solver (noise form) and DPM-Solver++ 2S and 3S (data form): `order` evaluations a step, no memory.

    A step of infinite width in log-SNR, from pure noise or to clean data, is of order 1 and costs one evaluation.

    Source: lu2022dpmsolver, Algorithms 1 and 2 (r1 = 1/2; 1/3 and 2/3); lu2022dpmsolverpp, Algorithm 1.

    Attributes:
        order: Evaluations of a step, and its order.
        form: Which estimate is taken for a polynomial: `noise` is DPM-Solver, `data` DPM-Solver++.
    """

    kind: Literal["dpm"] = "dpm"
    shiftable: ClassVar[bool] = True
    order: Literal[1, 2, 3] = 2
    form: Literal["noise", "data"] = "noise"

    @property
    def convergence(self) -> int:
        """The chosen order: there is no start-up."""
        return self.order

    def evaluations(self, steps: int, *, to_clean: bool = True) -> int:
        """`order` a step, one on the step to clean data."""
        return steps * self.order - (self.order - 1) * to_clean

    def init(self, x: Tensor, grid: Sequence[float], path: PathPart) -> _Within:
        """Levels of the grid, and within its steps at even parts of their width."""
        levels = tuple(path.level(t) for t in grid)
        inside = tuple(self._inside(path, here, there) for here, there in itertools.pairwise(levels))
        return _Within(path, levels, inside)

    def _inside(self, path: PathPart, here: Level, there: Level) -> tuple[Level, ...]:
        h = width(here, there)
        if self.order == 1 or not math.isfinite(h):
            return ()
        parts = [float(here.half_log_snr) + k / self.order * h for k in range(1, self.order)]
        return tuple(path.level(t) for t in path.t_of(torch.tensor(parts, dtype=torch.float64)).tolist())

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """`order` evaluations."""
        assert isinstance(state, _Within)
        here, there, inside = state.levels[i], state.levels[i + 1], state.inside[i]
        if not inside:
            return transfer(x, denoise(x, float(here.t)).x0, here, there), state
        first = self._estimate(denoise, x, here, 0)
        between = self._move(x, first, here, inside[0])
        change = self._estimate(denoise, between, inside[0], 1) - first
        if self.order == 2:
            scale, z = self._scale(here, there)
            return self._move(x, first, here, there) - scale * math.expm1(z) * change, state
        scale, z = self._scale(here, inside[1])
        between = self._move(x, first, here, inside[1]) - scale * 2 * (math.expm1(z) / z - 1) * change
        change = self._estimate(denoise, between, inside[1], 2) - first
        scale, z = self._scale(here, there)
        return self._move(x, first, here, there) - scale * 1.5 * (math.expm1(z) / z - 1) * change, state

    def _estimate(self, denoise: Estimator, x: Tensor, level: Level, substep: int) -> Tensor:
        """The estimate that is taken for a polynomial, (B, ...)."""
        estimate = denoise(x, float(level.t), substep)
        return estimate.eps(x, level) if self.form == "noise" else estimate.x0

    def _move(self, x: Tensor, value: Tensor, here: Level, there: Level) -> Tensor:
        """The step of order 1."""
        move = noise_transfer if self.form == "noise" else transfer
        return move(x, value, here, there)

    def _scale(self, here: Level, there: Level) -> tuple[float, float]:
        """Factor of the integrals, and their signed width: the two forms are each other's mirror image."""
        h = width(here, there)
        return (float(there.sigma), h) if self.form == "noise" else (float(there.alpha), -h)
