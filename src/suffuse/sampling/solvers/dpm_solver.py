"""DPM-Solver++: exponential integrators with a polynomial in the half log-SNR for the data estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import model_validator
from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.process import Level, transfer
from suffuse.sampling.solvers.base import Estimator, OnGrid, SolverPart, stochastic_transfer
from suffuse.sampling.solvers.exponential import finite_run, width

__all__ = ["DPMSolverPP"]


@dataclass(frozen=True)
class _Memory(OnGrid):
    """Grid, and the estimates of the steps before, newest first, (B, ...) each."""

    past: tuple[Tensor, ...] = ()


class DPMSolverPP(SolverPart):
    """DPM-Solver++ multistep (1, 2M, 3M): a polynomial in the half log-SNR through the newest estimates.

    Source: lu2022dpmsolverpp, Algorithm 2 and Appendix B; the third order with the coefficient that makes it one.

    Attributes:
        order: Number of estimates that a step uses; 1 is DDIM, or DDPM as an SDE.
        variant: Of steps of order 2: `midpoint` is the paper's and everybody's default; `heun` integrates the linear
            term exactly.
        sde: Solve the reverse SDE, which puts noise on at every step, instead of the probability-flow ODE.
        published: Take the third order's second difference with half its weight, as published and as diffusers does:
            it is of order 2 then. Only for order 3 of the ODE.
        lower_final: With fewer than 15 steps let the order fall to 2 and 1 on the last two; the step to clean data is
            always of order 1, because its width in log-SNR is infinite.
    """

    kind: Literal["dpmpp"] = "dpmpp"
    memory: ClassVar[type[OnGrid]] = _Memory
    order: Literal[1, 2, 3] = 2
    variant: Literal["midpoint", "heun"] = "midpoint"
    sde: bool = False
    published: bool = False
    lower_final: bool = False

    @model_validator(mode="after")
    def _published_third_order(self) -> DPMSolverPP:
        if self.published and (self.order != 3 or self.sde):
            raise ValueError("published names a coefficient of the ODE's order 3; set order: 3 and sde: false")
        return self

    @property
    def convergence(self) -> int:
        """At most 2: a first step of order 1 costs one local error of order 2."""
        return min(self.order, 2)

    @property
    def interior(self) -> int:
        """The chosen order; 2 for the published form of the third, and weakly for the SDE's."""
        return 2 if self.published else self.order

    @property
    def stochastic(self) -> bool:
        """As an SDE."""
        return self.sde

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """One evaluation."""
        assert isinstance(state, _Memory)
        here, there = state.levels[i], state.levels[i + 1]
        estimate = denoise(x, float(here.t))
        after = replace(state, past=(estimate.x0, *state.past)[: self.order - 1])
        known = (estimate.x0, *state.past)[: self._order_at(state, i)]
        differences = _differences(known, [width(*state.levels[i - k : i - k + 2]) for k in range(len(known))])
        if not self.sde:
            return self._along(x, estimate.x0, differences, here, there), after
        mean, std = stochastic_transfer(estimate, x, here, there, eta=1.0)
        mean = mean + self._correction(differences, here, there)
        return (mean + std * noise.normal("solver", x.shape[1:]).to(x) if std else mean), after

    def _order_at(self, state: _Memory, i: int) -> int:
        """Order of a step: what is asked for, as far as there is memory, and 1 where the step's width is infinite."""
        levels = state.levels
        steps = len(levels) - 1
        if levels[i + 1].sigma == 0:
            return 1
        order = min(self.order, len(state.past) + 1)
        if self.lower_final and steps < 15:
            order = min(order, steps - i)
        # A first step from pure noise has infinite width: no polynomial leads through its start.
        return max(1, finite_run(levels, i, order))

    def _along(self, x: Tensor, x0: Tensor, differences: tuple[Tensor, ...], here: Level, there: Level) -> Tensor:
        """A step of the probability-flow ODE."""
        if not differences:
            return transfer(x, x0, here, there)
        if len(differences) == 1 and self.variant == "midpoint":
            return transfer(x, x0 + differences[0] / 2, here, there)
        # Integrals of the linear and the quadratic term: alpha_s (expm1(-h) / h + 1) and 2 alpha_s times the rest.
        h = width(here, there)
        linear = float(there.alpha) * (math.expm1(-h) / h + 1)
        moved = transfer(x, x0, here, there) + linear * differences[0]
        if len(differences) == 1:
            return moved
        bent = float(there.alpha) * ((math.expm1(-h) + h) / h**2 - 0.5)
        return moved - (1 if self.published else 2) * bent * differences[1]

    def _correction(self, differences: tuple[Tensor, ...], here: Level, there: Level) -> Tensor | float:
        """What higher orders add to a step of the reverse SDE, whose data estimate decays with exp(-2h)."""
        if not differences:
            return 0.0
        h, alpha = width(here, there), float(there.alpha)
        kept = -math.expm1(-2 * h)
        if len(differences) == 1 and self.variant == "midpoint":
            return alpha * kept / 2 * differences[0]
        moved = alpha * (1 - kept / (2 * h)) * differences[0]
        return moved if len(differences) == 1 else moved + alpha * (1 - 1 / h + kept / (2 * h**2)) * differences[1]


def _differences(known: Sequence[Tensor], widths: Sequence[float]) -> tuple[Tensor, ...]:
    """First and second derivative of the data estimate over this step's width, the second one halved.

    Args:
        known: Estimates, newest first.
        widths: Of this step, the one before, ...
    """
    if len(known) == 1:
        return ()
    near = (known[0] - known[1]) * (widths[0] / widths[1])
    if len(known) == 2:
        return (near,)
    far = (known[1] - known[2]) * (widths[0] / widths[2])
    apart = (widths[1] + widths[2]) / widths[0]
    bend = (near - far) / apart
    return near + widths[1] / widths[0] * bend, bend
