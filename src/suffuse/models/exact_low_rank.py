"""Exact denoiser of data on a union of subspaces: the cost grows with the subspaces' rank, not with the pixels."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.models.exact import log_prior, times_of
from suffuse.process import PathPart

__all__ = ["ExactLowRank"]

# Bases that were rounded to float32 pass; anything worse would make the densities wrong without a word.
_ORTHONORMAL = 1e-5


class ExactLowRank:
    """Posterior mean of a mixture of low-rank Gaussians, sum_k w_k N(0, U_k diag(std_k**2) U_k^T), on any path.

    Under component k, x_t has variance v = alpha**2 std**2 + sigma**2 along each axis of U_k and sigma**2 across them:
    E[x0 | x_t, k] = U_k (alpha std**2 / v) U_k^T x_t, and log p needs |U_k^T x| and the distance to the subspace alone.
    Everything is O(B K n d), in float64 and in logarithms; no n x n covariance is made.

    Source: wang2024subspace, Section 3 (MoLRG; there std = 1).

    Args:
        path: How data become noise.
        weights: (K,), positive, sum 1.
        bases: U, (K, n, d), orthonormal columns.
        stds: Standard deviations along the columns, (d,) or (K, d); None for 1.

    Raises:
        UsageError: Shapes that do not go together, or columns that are not orthonormal.
    """

    estimate: ClassVar[Literal["mean", "endpoint"]] = "mean"

    def __init__(self, path: PathPart, weights: Tensor, bases: Tensor, stds: Tensor | None = None) -> None:
        if bases.ndim != 3 or len(weights) != len(bases):
            raise UsageError(
                f"bases have shape {tuple(bases.shape)} for {len(weights)} weights; give (K, n, d), one basis a weight"
            )
        k, _, d = bases.shape
        self.path, self.weights, self.bases = path, weights.double(), bases.double()
        error = (self.bases.mT @ self.bases - torch.eye(d, dtype=torch.float64, device=bases.device)).abs().max().item()
        if error > _ORTHONORMAL:
            raise UsageError(f"the columns of the bases are {error:.2g} from orthonormal; take the Q of their QR")
        if stds is not None and stds.shape not in {(d,), (k, d)}:
            raise UsageError(f"stds have shape {tuple(stds.shape)}; give one for each column: ({d},) or ({k}, {d})")
        ones = torch.ones(k, d, dtype=torch.float64, device=bases.device)
        self.stds = ones if stds is None else stds.double().expand(k, d)
        self._columns = self.bases.permute(1, 0, 2).reshape(bases.shape[1], k * d)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.bases.device

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates in each subspace (B, K, d) and squared distance to it (B, K): all that x enters by."""
        wide = x.double()
        inside = (wide @ self._columns).reshape(len(x), *self.stds.shape)
        # The difference itself, not |x|**2 - |U^T x|**2: on the subspace that would leave nothing but rounding.
        outside = wide[:, None] - torch.einsum("bkd,knd->bkn", inside, self.bases)
        return inside, torch.linalg.vector_norm(outside, dim=-1).square()

    def _axes(self, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """At times (...): the factor of a coordinate's mean (..., K, d), its variance (..., K, d), sigma (..., 1)."""
        alpha, sigma = self.path.alpha(times)[..., None, None], self.path.sigma(times)[..., None, None]
        if not bool((sigma > 0).all()):
            raise UsageError(
                f"a low-rank mixture has no density without noise, but sigma is 0 at one of the times asked for; stay "
                f"above the path's time of clean data, {self.path.t_clean:g}"
            )
        variance = (alpha * self.stds) ** 2 + sigma**2
        return alpha * self.stds**2 / variance, variance, sigma[..., 0]

    def _log_joint(self, inside: Tensor, outside: Tensor, variance: Tensor, sigma: Tensor, prior: Tensor) -> Tensor:
        """log w_k + log p_t(x | k), (..., K), of sum y**2 / v within the subspaces and squared distances to them."""
        _, ambient, rank = self.bases.shape
        logs = variance.log().sum(-1) + 2 * (ambient - rank) * sigma.log() + ambient * math.log(2 * math.pi)
        return prior - 0.5 * (inside + outside / sigma**2 + logs)

    def _each(self, x: Tensor, t: float | Tensor, cond: Conditions | None) -> tuple[Tensor, Tensor]:
        """Of each sample at its own time: coordinates of the means (B, K, d) and log joint (B, K)."""
        inside, outside = self._project(x)
        gain, variance, sigma = self._axes(times_of(t, x))
        prior = log_prior(self.weights, len(x), cond)
        return gain * inside, self._log_joint((inside**2 / variance).sum(-1), outside, variance, sigma, prior)

    def _every(self, x: Tensor, times: Tensor, cond: Conditions | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of every sample at every time: coordinates of x (B, K, d), their gains (S, K, d), log joint (B, S, K)."""
        inside, outside = self._project(x)
        gain, variance, sigma = self._axes(times.double())
        scaled = torch.einsum("bkd,skd->bsk", inside**2, 1 / variance)
        prior = log_prior(self.weights, len(x), cond)[:, None]
        return inside, gain, self._log_joint(scaled, outside[:, None], variance, sigma, prior)

    def denoise(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        """E[x0 | x_t], (B, n), in the dtype of x; computed in float64."""
        means, joint = self._each(x, t, cond)
        return ((joint.softmax(-1)[..., None] * means).flatten(1) @ self._columns.T).to(x.dtype)

    def log_prob(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None) -> Tensor:
        """log p_t(x) of the noisy density, (B,) float64."""
        return self._each(x, t, cond)[1].logsumexp(-1)

    def log_probs(self, x: Tensor, times: Tensor, cond: Conditions | None = None) -> Tensor:
        """log p_t(x) of every sample at every time: (B, n), (S,) -> (B, S) float64."""
        return self._every(x, times, cond)[2].logsumexp(-1)

    def combine(self, x: Tensor, times: Tensor, factors: Tensor, cond: Conditions | None = None) -> Tensor:
        """sum_s factors_s E[x0 | x_t = x, t = times_s]: (B, n), (S,), (B, S) -> (B, n) float64."""
        inside, gain, joint = self._every(x, times, cond)
        total = torch.einsum("bsk,skd->bkd", factors[..., None] * joint.softmax(-1), gain)
        return (total * inside).flatten(1) @ self._columns.T
