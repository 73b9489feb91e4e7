"""PLMS: the pseudo linear multistep method, Adams-Bashforth's weights on the noise, then DDIM's step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.process import Level, transfer
from suffuse.sampling.solvers.base import Estimator, OnGrid, SolverPart
from suffuse.sampling.solvers.exponential import width

__all__ = ["PLMS"]

_WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


@dataclass(frozen=True)
class _Memory(OnGrid):
    """Grid, and the noise estimates of the steps before, newest first."""

    past: tuple[Tensor, ...] = ()


class PLMS(SolverPart):
    """PLMS, also called S-PNDM: weights for even steps, whatever the steps are, so the order is 2.

    The first step evaluates at both ends and takes the mean. Source: liu2022pndm, Algorithm 2 without its Runge-Kutta
    start, as Stable Diffusion uses it.

    Attributes:
        order: Noise estimates that a step uses.
    """

    kind: Literal["plms"] = "plms"
    memory: ClassVar[type[OnGrid]] = _Memory
    order: Literal[2, 3, 4] = 4

    @property
    def convergence(self) -> int:
        """Two: the weights are those of even steps in another measure than the step's."""
        return 2

    def evaluations(self, steps: int, *, to_clean: bool = True) -> int:
        """One a step, one more for the first; none more where that one leads to clean data."""
        return steps + (not (to_clean and steps == 1))

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """One evaluation; two on the first step."""
        assert isinstance(state, _Memory)
        here, there = state.levels[i], state.levels[i + 1]
        estimate = denoise(x, float(here.t))
        eps = estimate.eps(x, here)
        known = (eps, *state.past)[: self.order]
        if (
            not math.isfinite(width(here, there)) and there.sigma != 0
        ):  # from pure noise: no estimate of the noise says where the data are
            return transfer(x, estimate.x0, here, there), replace(state, past=known)
        if state.past or there.sigma == 0:
            weights = _WEIGHTS[len(known) - 1]
            mixed = weights[0] * eps
            for weight, value in zip(weights[1:], known[1:], strict=True):
                mixed = mixed + weight * value
            return _moved(x, mixed, here, there), replace(state, past=known)
        ahead = _moved(x, eps, here, there)
        second = denoise(ahead, float(there.t), substep=1).eps(ahead, there)
        return _moved(x, (eps + second) / 2, here, there), replace(state, past=known)


def _moved(x: Tensor, eps: Tensor, here: Level, there: Level) -> Tensor:
    """DDIM's step with a noise that need not belong to x: (B, ...)."""
    ratio = there.alpha / here.alpha
    return ratio * x + (there.sigma - here.sigma * ratio) * eps
