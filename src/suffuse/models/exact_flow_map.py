"""The exact flow map of a normal law, on any path: what maps, samplers and objectives are tested against."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.process import Level, PathPart, aim

__all__ = ["ExactGaussianMap"]


class ExactGaussianMap:
    """Trajectories of the probability-flow ODE of N(mean, std**2 I): they keep their place in units of the spread.

    f(x, t, s) = alpha_s mean + (x - alpha_t mean) sqrt((alpha_s**2 std**2 + sigma_s**2) / (the same at t)).

    Args:
        path: How data become noise.
        mean: Of every element.
        std: Of every element.
        end: Where it leads when nothing else is said; clean data when None.
    """

    estimate: ClassVar[Literal["mean", "endpoint"]] = "endpoint"

    def __init__(self, path: PathPart, *, mean: float = 0.0, std: float = 1.0, end: float | None = None) -> None:
        self.path, self.mean, self.std = path, mean, std
        self.t_end = path.t_clean if end is None else end
        self.device = torch.device("cpu")

    def _level(self, t: float | Tensor, x: Tensor) -> Level:
        return self.path.level(t, x) if isinstance(t, Tensor) else self.path.level(t)

    def _spread(self, level: Level) -> float | Tensor:
        return (level.alpha**2 * self.std**2 + level.sigma**2) ** 0.5

    def __call__(self, x: Tensor, t: float | Tensor, s: float | Tensor) -> Tensor:
        """f(x_t, t, s), (B, ...)."""
        here, there = self._level(t, x), self._level(s, x)
        return there.alpha * self.mean + (x - here.alpha * self.mean) * (self._spread(there) / self._spread(here))

    def denoise(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        """f(x_t, t, end) / alpha(end), or what a straight step must aim at to arrive at the call's target, (B, ...)."""
        if call is None or call.target is None:
            return self(x, t, self.t_end) / self._level(self.t_end, x).alpha
        here, there = self._level(t, x), self._level(call.target, x)
        return aim(x, self(x, t, call.target), here, there)
