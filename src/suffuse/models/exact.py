"""Exact denoisers: densities whose posterior mean is known. Solvers, guidance and tools are tested on them."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.process import PathPart, expand

__all__ = ["ExactMixture"]


class ExactMixture:
    """Posterior mean of a mixture of isotropic Gaussians, sum_k w_k N(mean_k, std_k**2 I), on any path.

    Under component k, x_t has mean alpha mean_k and variance v_k = alpha**2 std_k**2 + sigma**2, and
    E[x0 | x_t, k] = mean_k + alpha std_k**2 / v_k (x_t - alpha mean_k).

    Args:
        path: How data become noise.
        weights: (K,), positive, sum 1.
        means: (K, D).
        stds: (K,); 0 is a single point.
    """

    estimate: ClassVar[Literal["mean", "endpoint"]] = "mean"

    def __init__(self, path: PathPart, weights: Tensor, means: Tensor, stds: Tensor) -> None:
        self.path = path
        self.weights, self.means, self.stds = weights.double(), means.double(), stds.double()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.means.device

    def _posterior(self, x: Tensor, t: float | Tensor, cond: Conditions | None) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights of the components (B, K), their means given x (B, K, D), and log p_t(x) (B,)."""
        wide = x.double()
        times = t if isinstance(t, Tensor) else torch.full((len(x),), t, dtype=torch.float64, device=x.device)
        exact = times.double()
        alpha, sigma = expand(self.path.alpha(exact), wide)[:, None], expand(self.path.sigma(exact), wide)[:, None]
        gap = wide[:, None] - alpha * self.means
        variance = (alpha * self.stds[:, None]) ** 2 + sigma**2
        dimension = self.means.shape[1]
        log_weights = self._log_prior(len(x), cond)
        joint = log_weights - 0.5 * ((gap**2 / variance).sum(-1) + dimension * (2 * math.pi * variance[..., 0]).log())
        means = self.means + alpha * self.stds[:, None] ** 2 / variance * gap
        return joint.log_softmax(-1), means, joint.logsumexp(-1)

    def _log_prior(self, batch: int, cond: Conditions | None) -> Tensor:
        """Log weights (B, K); a present `label` keeps that component alone."""
        prior = self.weights.log().expand(batch, -1)
        if cond and "label" in cond.values:
            chosen = torch.nn.functional.one_hot(cond.values["label"], len(self.weights)).bool()
            only = torch.zeros_like(prior).masked_fill(~chosen, -math.inf)
            prior = torch.where(cond.present["label"][:, None], only, prior)
        return prior

    def denoise(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        """E[x0 | x_t], (B, D), in the dtype of x; computed in float64."""
        log_weights, means, _ = self._posterior(x, t, cond)
        return (log_weights.exp()[..., None] * means).sum(1).to(x.dtype)

    def log_prob(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None) -> Tensor:
        """log p_t(x) of the noisy density, (B,) float64."""
        return self._posterior(x, t, cond)[2]
