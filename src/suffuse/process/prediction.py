"""Predictions: what the network's raw output F means. All are linear maps, so all are converted exactly.

The estimate of the data is D = c_skip x + c_out F(c_in x). Errors follow: D - x0 = c_out (F - target), whatever the
prediction, so that every weighting can be stated on |D - x0|**2.
"""

from __future__ import annotations

import abc
from typing import Literal, TypeVar

from torch import Tensor

from suffuse.base.part import Part
from suffuse.process.path import Level, PathPart

__all__ = [
    "X0",
    "EDMPrediction",
    "Eps",
    "FlowVelocity",
    "PredictionPart",
    "Score",
    "V",
    "eps_of",
    "score_of",
    "velocity_of",
    "x0_of_eps",
]

Number = TypeVar("Number", float, Tensor)


def eps_of(x: Tensor, x0: Tensor, level: Level) -> Tensor:
    """Noise implied by an estimate of the data: eps = (x - alpha x0) / sigma, (B, ...)."""
    return (x - level.alpha * x0) / level.sigma


def x0_of_eps(x: Tensor, eps: Tensor, level: Level) -> Tensor:
    """Data implied by an estimate of the noise: x0 = (x - sigma eps) / alpha, (B, ...)."""
    return (x - level.sigma * eps) / level.alpha


def score_of(x: Tensor, x0: Tensor, level: Level) -> Tensor:
    """Score implied by an estimate of the data: grad log p = (alpha x0 - x) / sigma**2, (B, ...)."""
    return (level.alpha * x0 - x) / level.sigma**2


def velocity_of(x: Tensor, x0: Tensor, path: PathPart, t: Tensor) -> Tensor:
    """Velocity of the probability-flow ODE: dx/dt = alpha' x0 + sigma' eps, (B, ...), for times (B,)."""
    level, exact = path.level(t, x), t.double()
    shape = (-1, *(1,) * (x.ndim - 1))
    d_alpha, d_sigma = (value.to(x.dtype).reshape(shape) for value in (path.d_alpha(exact), path.d_sigma(exact)))
    return d_alpha * x0 + d_sigma * eps_of(x, x0, level)


class PredictionPart(Part, abc.ABC):
    """Meaning of the raw output.

    Coefficients may be floats or tensors; `sigma_data` is the standard deviation of the data.
    """

    kind: str

    @abc.abstractmethod
    def output(self, alpha: Number, sigma: Number, sigma_data: float) -> tuple[Number, Number]:
        """Coefficients (c_skip, c_out) of D = c_skip x + c_out F."""

    def c_in(self, alpha: Number, sigma: Number, sigma_data: float) -> Number | float:
        """Factor on x before it enters the network."""
        return 1.0

    def target(self, x0: Tensor, eps: Tensor, level: Level, sigma_data: float) -> Tensor:
        """What F is trained towards, (B, ...): the F for which D is exactly x0."""
        x = level.alpha * x0 + level.sigma * eps
        c_skip, c_out = self.output(level.alpha, level.sigma, sigma_data)  # type: ignore[type-var]  # both of one kind
        return (x0 - c_skip * x) / c_out

    def singular_at_zero_alpha(self) -> bool:
        """Whether x0 cannot be recovered where alpha = 0 (zero terminal SNR, or the noise end of flow paths)."""
        return False


class Eps(PredictionPart):
    """F is the noise. Source: ho2020ddpm."""

    kind: Literal["eps"] = "eps"

    def output(self, alpha: Number, sigma: Number, sigma_data: float) -> tuple[Number, Number]:
        """x0 = (x - sigma F) / alpha."""
        return 1 / alpha, -sigma / alpha

    def singular_at_zero_alpha(self) -> bool:
        """Dividing by alpha."""
        return True


class X0(PredictionPart):
    """F is the clean data."""

    kind: Literal["x0"] = "x0"

    def output(self, alpha: Number, sigma: Number, sigma_data: float) -> tuple[Number, Number]:
        """D = F."""
        return 0 * alpha, 0 * alpha + 1


class V(PredictionPart):
    """F is v = alpha eps - sigma x0. Source: salimans2022progressive, Section 4."""

    kind: Literal["v"] = "v"

    def output(self, alpha: Number, sigma: Number, sigma_data: float) -> tuple[Number, Number]:
        """x0 = (alpha x - sigma F) / (alpha**2 + sigma**2); the denominator is 1 on variance-preserving paths."""
        square = alpha**2 + sigma**2
        return alpha / square, -sigma / square


class FlowVelocity(PredictionPart):
    """F is eps - x0, the velocity of rectified flow. Source: liu2023rectified.

    The official flow-matching codes that run time the other way predict its negative.
    """

    kind: Literal["flow"] = "flow"

    def output(self, alpha: Number, sigma: Number, sigma_data: float) -> tuple[Number, Number]:
        """x0 = (x - sigma F) / (alpha + sigma); the denominator is 1 on the flow path."""
        return 1 / (alpha + sigma), -sigma / (alpha + sigma)


class Score(PredictionPart):
    """F is the score, -eps / sigma. Source: song2021sde."""

    kind: Literal["score"] = "score"

    def output(self, alpha: Number, sigma: Number, sigma_data: float) -> tuple[Number, Number]:
        """x0 = (x + sigma**2 F) / alpha."""
        return 1 / alpha, sigma**2 / alpha

    def singular_at_zero_alpha(self) -> bool:
        """Dividing by alpha."""
        return True


class EDMPrediction(PredictionPart):
    """EDM's preconditioning, on any path: unit variance of input and target at every noise level.

    Source: karras2022edm, Table 1 and Appendix B.6, for x = alpha x0 + sigma eps.
    """

    kind: Literal["edm"] = "edm"

    def output(self, alpha: Number, sigma: Number, sigma_data: float) -> tuple[Number, Number]:
        """c_skip = alpha s**2 / (sigma**2 + alpha**2 s**2), c_out = sigma s / sqrt(sigma**2 + alpha**2 s**2)."""
        variance = sigma**2 + alpha**2 * sigma_data**2
        return alpha * sigma_data**2 / variance, sigma * sigma_data / variance**0.5

    def c_in(self, alpha: Number, sigma: Number, sigma_data: float) -> Number | float:
        """1 / sqrt(sigma**2 + alpha**2 s**2)."""
        return 1 / (sigma**2 + alpha**2 * sigma_data**2) ** 0.5  # type: ignore[no-any-return]  # float ** float is Any
