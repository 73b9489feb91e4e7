"""The exact step of the probability-flow ODE with the data estimate frozen, which solvers and flow maps share."""

from __future__ import annotations

from torch import Tensor

from suffuse.process.path import Level

__all__ = ["aim", "transfer"]


def transfer(x: Tensor, x0: Tensor, here: Level, there: Level) -> Tensor:
    """Exact solution of the probability-flow ODE over a step with the data estimate frozen.

    x_s = (sigma_s / sigma_t) x + (alpha_s - alpha_t sigma_s / sigma_t) x0; the factor of x0 equals
    -alpha_s expm1(-h) with h = lambda_s - lambda_t, and stays finite where alpha_t = 0 or sigma_s = 0.

    Source: lu2022dpmsolverpp, Eq. 9 (order 1), which is DDIM.
    """
    ratio = there.sigma / here.sigma
    return ratio * x + (there.alpha - here.alpha * ratio) * x0


def aim(x: Tensor, x_s: Tensor, here: Level, there: Level) -> Tensor:
    """The data estimate with which `transfer` lands on x_s: its inverse, (B, ...)."""
    ratio = there.sigma / here.sigma
    return (x_s - ratio * x) / (there.alpha - here.alpha * ratio)
