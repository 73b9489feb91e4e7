"""DEIS: Adams-Bashforth on x / alpha with a polynomial through the noise estimates, integrated exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.process import PathPart, transfer
from suffuse.sampling.solvers.base import Estimator, OnGrid, SolverPart
from suffuse.sampling.solvers.exponential import finite_run, lagrange, quadrature

__all__ = ["DEIS"]


@dataclass(frozen=True)
class _Memory(OnGrid):
    """Grid, the weights of each step's estimates, and the estimates of the steps before, newest first."""

    weights: tuple[tuple[float, ...], ...] = ()
    past: tuple[Tensor, ...] = ()


class DEIS(SolverPart):
    """Multistep DEIS (tAB, rho-AB): x / alpha moves by the integral of a polynomial over d(sigma / alpha).

    The step to clean data, and one from pure noise, is of order 1.

    Source: zhang2023deis, Eq. 15 and Table 1.

    Attributes:
        order: Noise estimates that a step uses; 1 is DDIM.
        variable: In what the polynomial is one: the path's `time` (tAB), `sigma` / alpha (rho-AB) or its logarithm,
            which diffusers takes.
    """

    kind: Literal["deis"] = "deis"
    order: Literal[1, 2, 3, 4] = 3
    variable: Literal["time", "sigma", "log_sigma"] = "time"

    @property
    def convergence(self) -> int:
        """At most 2: a first step of order 1 costs one local error of order 2."""
        return min(self.order, 2)

    @property
    def interior(self) -> int:
        """The chosen order."""
        return self.order

    def init(self, x: Tensor, grid: Sequence[float], path: PathPart) -> _Memory:
        """Levels, and the weights of all steps."""
        levels = tuple(path.level(t) for t in grid)
        state = _Memory(path, levels)
        return replace(state, weights=tuple(self._weights(state, i) for i in range(len(levels) - 1)))

    def _weights(self, state: _Memory, i: int) -> tuple[float, ...]:
        """Integrals of Lagrange's polynomials over a step; none where it is of infinite width."""
        count = min(self.order, i + 1, finite_run(state.levels, i, self.order))
        if not count:
            return ()
        lam = [float(state.levels[i - j].half_log_snr) for j in range(count)]
        points, weights = quadrature(lam[0], float(state.levels[i + 1].half_log_snr))
        basis = lagrange(self._values(state.path, np.array(lam)).tolist(), self._values(state.path, points))
        # d(sigma / alpha) = -exp(-lambda) d(lambda)
        return tuple((-(basis * np.exp(-points)) @ weights).tolist())

    def _values(self, path: PathPart, lam: NDArray[np.float64]) -> NDArray[np.float64]:
        """The variable at half log-SNRs."""
        if self.variable == "log_sigma":
            return -lam
        return np.exp(-lam) if self.variable == "sigma" else path.t_of(torch.from_numpy(lam)).numpy()

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """One evaluation."""
        assert isinstance(state, _Memory)
        here, there, weights = state.levels[i], state.levels[i + 1], state.weights[i]
        estimate = denoise(x, float(here.t))
        if not weights:
            return transfer(x, estimate.x0, here, there), replace(state, past=())
        known = (estimate.eps(x, here), *state.past)
        change = weights[0] * known[0]
        for weight, eps in zip(weights[1:], known[1:], strict=False):
            change = change + weight * eps
        return there.alpha * (x / here.alpha + change), replace(state, past=known[: self.order - 1])
