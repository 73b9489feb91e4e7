"""Samplers of flow maps: jump to data and put fresh noise on, or jump from grid time to grid time."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.process import transfer
from suffuse.sampling.solvers.base import Estimator, OnGrid, SolverPart

__all__ = ["Consistency", "MapSteps"]


class Consistency(SolverPart):
    """Multistep consistency sampling: jump to data, put noise on again up to the next grid time, and so on.

    x_tau = alpha_tau f + sqrt(sigma_tau**2 - (alpha_tau r)**2) eps, where r = sigma / alpha at the path's `t_min` is
    the noise that the papers' f still holds.

    Source: song2023consistency, Algorithm 1. It also runs on a denoiser, whose mean then stands for the jump.
    """

    kind: Literal["consistency"] = "consistency"
    needs_mean: ClassVar[bool] = False

    @property
    def convergence(self) -> int:
        """None in the number of steps: an exact map is exact in one."""
        return 0

    @property
    def stochastic(self) -> bool:
        """All steps but the last draw noise."""
        return True

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """One evaluation; no noise on the step to clean data."""
        here, there = state.levels[i], state.levels[i + 1]
        x0 = denoise(x, float(here.t)).x0
        least = state.path.level(state.path.t_min)
        fresh = max(float(there.sigma) ** 2 - (float(there.alpha) * float(least.sigma) / float(least.alpha)) ** 2, 0.0)
        if fresh == 0.0:
            return there.alpha * x0, state
        return there.alpha * x0 + fresh**0.5 * noise.normal("solver", x.shape[1:]).to(x), state


class MapSteps(SolverPart):
    """Jump along the trajectory, from each grid time to the next: for maps that know any target.

    With exact maps every number of steps gives the same samples. On a denoiser, which knows no target, it is DDIM.

    Source: kim2024ctm, Section 3 (gamma = 0); geng2025meanflow, Section 4.2.
    """

    kind: Literal["map_steps"] = "map_steps"
    needs_mean: ClassVar[bool] = False

    @property
    def convergence(self) -> int:
        """That of DDIM where the map is a denoiser."""
        return 1

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """One evaluation."""
        here, there = state.levels[i], state.levels[i + 1]
        return transfer(x, denoise(x, float(here.t), target=float(there.t)).x0, here, there), state
