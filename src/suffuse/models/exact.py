"""Exact denoisers: densities whose posterior mean is known. Solvers, guidance and tools are tested on them."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.process import PathPart

__all__ = ["ExactMixture", "ExactModel", "log_prior", "times_of"]


class ExactModel(Protocol):
    """What exact denoisers can do beyond the contract of a model: densities, and many times at once for one x."""

    path: PathPart
    estimate: ClassVar[Literal["mean", "endpoint"]]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        ...

    def denoise(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        """E[x0 | x_t], (B, D), in the dtype of x."""
        ...

    def log_prob(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None) -> Tensor:
        """log p_t(x), (B,) float64."""
        ...

    def log_probs(self, x: Tensor, times: Tensor, cond: Conditions | None = None) -> Tensor:
        """log p_t(x) of every sample at every time: (B, D), (S,) -> (B, S) float64."""
        ...

    def combine(self, x: Tensor, times: Tensor, factors: Tensor, cond: Conditions | None = None) -> Tensor:
        """sum_s factors_s E[x0 | x_t = x, t = times_s]: (B, D), (S,), (B, S) -> (B, D) float64."""
        ...


def times_of(t: float | Tensor, x: Tensor) -> Tensor:
    """A time for each sample, (B,) float64, from one for all or from such times."""
    return t.double() if isinstance(t, Tensor) else torch.full((len(x),), t, dtype=torch.float64, device=x.device)


def log_prior(weights: Tensor, batch: int, cond: Conditions | None) -> Tensor:
    """Log weights of a mixture's components for each sample, (B, K); a present `label` keeps that component alone."""
    prior = weights.log().expand(batch, -1)
    if cond and "label" in cond.values:
        chosen = torch.nn.functional.one_hot(cond.values["label"], len(weights)).bool()
        only = torch.zeros_like(prior).masked_fill(~chosen, -math.inf)
        prior = torch.where(cond.present["label"][:, None], only, prior)
    return prior


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

    def _posterior(self, x: Tensor, times: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights of the components (..., K), their means given x (..., K, D), and log p_t(x) (...).

        Args:
            x: (..., D) float64, where ... broadcasts against the times.
            times: (...).
            prior: (..., K).
        """
        alpha, sigma = self.path.alpha(times)[..., None, None], self.path.sigma(times)[..., None, None]
        gap = x[..., None, :] - alpha * self.means
        variance = (alpha * self.stds[:, None]) ** 2 + sigma**2
        dimension = self.means.shape[1]
        joint = prior - 0.5 * ((gap**2 / variance).sum(-1) + dimension * (2 * math.pi * variance[..., 0]).log())
        means = self.means + alpha * self.stds[:, None] ** 2 / variance * gap
        return joint.log_softmax(-1), means, joint.logsumexp(-1)

    def _each(self, x: Tensor, t: float | Tensor, cond: Conditions | None) -> tuple[Tensor, Tensor, Tensor]:
        """The posterior of each sample at its own time."""
        return self._posterior(x.double(), times_of(t, x), log_prior(self.weights, len(x), cond))

    def _every(self, x: Tensor, times: Tensor, cond: Conditions | None) -> tuple[Tensor, Tensor, Tensor]:
        """The posterior of every sample at every time, (B, S, ...)."""
        return self._posterior(x.double()[:, None], times.double(), log_prior(self.weights, len(x), cond)[:, None])

    def denoise(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        """E[x0 | x_t], (B, D), in the dtype of x; computed in float64."""
        log_weights, means, _ = self._each(x, t, cond)
        return (log_weights.exp()[..., None] * means).sum(1).to(x.dtype)

    def log_prob(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None) -> Tensor:
        """log p_t(x) of the noisy density, (B,) float64."""
        return self._each(x, t, cond)[2]

    def log_probs(self, x: Tensor, times: Tensor, cond: Conditions | None = None) -> Tensor:
        """log p_t(x) of every sample at every time: (B, D), (S,) -> (B, S) float64."""
        return self._every(x, times, cond)[2]

    def combine(self, x: Tensor, times: Tensor, factors: Tensor, cond: Conditions | None = None) -> Tensor:
        """sum_s factors_s E[x0 | x_t = x, t = times_s]: (B, D), (S,), (B, S) -> (B, D) float64."""
        log_weights, means, _ = self._every(x, times, cond)
        return torch.einsum("bs,bsk,bskd->bd", factors, log_weights.exp(), means)
