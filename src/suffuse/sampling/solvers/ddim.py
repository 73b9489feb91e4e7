"""DDIM and DDPM: keep the predicted noise, or replace part of it by fresh noise."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.process import transfer
from suffuse.sampling.solvers.base import Estimator, OnGrid, SolverPart, stochastic_transfer

__all__ = ["DDIM", "DDPM"]


class DDIM(SolverPart):
    """Order 1: keep the predicted noise and move along the path; `eta` replaces part of it by fresh noise.

    Source: song2021ddim, Eq. 12 (eta = 0 is the deterministic step, eta = 1 DDPM's).
    """

    kind: Literal["ddim"] = "ddim"
    renoises: ClassVar[bool] = True
    shiftable: ClassVar[bool] = True
    eta: float = Field(default=0.0, ge=0, le=1)

    @property
    def convergence(self) -> int:
        """One."""
        return 1

    @property
    def stochastic(self) -> bool:
        """With eta above 0."""
        return self.eta > 0

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """One evaluation."""
        here, there = state.levels[i], state.levels[i + 1]
        estimate = denoise(x, float(here.t))
        if not self.stochastic:
            if estimate.noise is None:
                return transfer(x, estimate.x0, here, there), state
            return there.alpha * estimate.x0 + there.sigma * estimate.noise, state
        mean, std = stochastic_transfer(estimate, x, here, there, self.eta)
        return (mean + std * noise.normal("solver", x.shape[1:]).to(x) if std else mean), state


class DDPM(SolverPart):
    """Ancestral sampling: the posterior q(x_s | x_t, x0) at the estimate of x0.

    Source: ho2020ddpm, Eqs. 6 and 7. On any grid, not only on neighbouring indices.

    Attributes:
        variance: `small` is the posterior's, sigma_s**2 (1 - exp(-2h)); `large` is the forward step's,
            sigma_t**2 (1 - exp(-2h)), which is beta_t between neighbouring indices.
    """

    kind: Literal["ddpm"] = "ddpm"
    renoises: ClassVar[bool] = True
    shiftable: ClassVar[bool] = True
    variance: Literal["small", "large"] = "small"

    @property
    def convergence(self) -> int:
        """One, weakly."""
        return 1

    @property
    def stochastic(self) -> bool:
        """Always."""
        return True

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """One evaluation; no noise on the step to clean data."""
        here, there = state.levels[i], state.levels[i + 1]
        mean, std = stochastic_transfer(denoise(x, float(here.t)), x, here, there, eta=1.0)
        if not std:
            return mean, state
        if self.variance == "large":
            std = std * here.sigma / there.sigma
        return mean + std * noise.normal("solver", x.shape[1:]).to(x), state
