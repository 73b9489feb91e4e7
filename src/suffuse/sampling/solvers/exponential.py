"""What exponential integrators share: steps in the half log-SNR with the data or the noise estimate frozen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from suffuse.process import Level

__all__ = ["finite_run", "lagrange", "noise_transfer", "quadrature", "width"]

_PURE_NOISE = -16.0  # half log-SNR below which a step says nothing of where it starts
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def width(here: Level, there: Level) -> float:
    """Step width h in half log-SNR; infinite where it starts at pure noise or ends at clean data."""
    start, end = float(here.half_log_snr), float(there.half_log_snr)
    # A path that ends at alpha = 0 may miss it by rounding.
    return math.inf if start < _PURE_NOISE else end - start


def finite_run(levels: Sequence[Level], i: int, most: int) -> int:
    """How many of the steps i, i - 1, ... are of finite width before one is not, `most` at most."""
    for count in range(most):
        if i - count < 0 or not math.isfinite(width(levels[i - count], levels[i - count + 1])):
            return count
    return most


def noise_transfer(x: Tensor, eps: Tensor, here: Level, there: Level) -> Tensor:
    """Exact solution over a step with the noise estimate frozen: (alpha_s / alpha_t) x - sigma_s expm1(h) eps.

    Source: lu2022dpmsolver, Eq. 3.7. It equals `transfer` when estimate and x belong together.
    """
    return there.alpha / here.alpha * x - there.sigma * math.expm1(width(here, there)) * eps


def quadrature(start: float, end: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre points and weights between two half log-SNRs, exact to rounding for smooth integrands."""
    half = (end - start) / 2
    return start + half * (_POINTS + 1), half * _WEIGHTS


def lagrange(nodes: Sequence[float], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lagrange's basis polynomials of distinct nodes, (len(nodes), len(at))."""
    rows = []
    for j, node in enumerate(nodes):
        others = [other for k, other in enumerate(nodes) if k != j]
        rows.append(np.prod([(at - other) / (node - other) for other in others], axis=0) * np.ones_like(at))
    return np.stack(rows)
