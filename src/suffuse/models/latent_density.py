"""Densities of a codec's vectors, from which a first stage draws: the prior, or a mixture fitted to the data."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.base.randomness import derived, normal, uniform

__all__ = ["LatentDensity", "LiveDensity"]


class LatentDensity(Part):
    """Where vectors come from when none are given.

    Source: pandey2022diffusevae, Section 3.4: a mixture of Gaussians fitted to the latents of the data closes the gap
    between them and the prior.

    Attributes:
        family: `normal` is the prior N(0, I); `mixture` is fitted to the latents after the first stage is trained.
        components: Gaussians of the mixture, of full covariance.
    """

    family: Literal["normal", "mixture"] = "mixture"
    components: int = Field(default=10, ge=1)

    def build(self, width: int) -> LiveDensity:
        """The live density of vectors of `width` numbers; a mixture is N(0, I) until it is fitted."""
        return LiveDensity(self, width)


class LiveDensity(nn.Module):
    """Draws vectors; what was fitted is in its buffers.

    Args:
        part: Its configuration.
        width: Numbers of a vector, d.
    """

    shares: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, part: LatentDensity, width: int) -> None:
        super().__init__()
        self.part = part
        count = part.components if part.family == "mixture" else 1
        self.register_buffer("shares", torch.full((count,), 1 / count))
        self.register_buffer("means", torch.zeros(count, width))
        self.register_buffer("factors", torch.eye(width).repeat(count, 1, 1))

    def fit(self, vectors: Tensor) -> None:
        """Fit a mixture to vectors, (N, d); the prior stays as it is.

        Raises:
            UsageError: Fewer vectors than Gaussians.
        """
        if self.part.family == "normal":
            return
        if len(vectors) < 2 * self.part.components:
            raise UsageError(
                f"a mixture of {self.part.components} Gaussians cannot be fitted to {len(vectors)} latents; choose "
                "fewer density.components"
            )
        from sklearn.mixture import GaussianMixture

        found = GaussianMixture(self.part.components, covariance_type="full", reg_covar=1e-5, random_state=0)
        found.fit(vectors.double().cpu().numpy())
        self.shares.copy_(torch.from_numpy(found.weights_))
        self.means.copy_(torch.from_numpy(found.means_))
        self.factors.copy_(torch.linalg.cholesky(torch.from_numpy(found.covariances_)))

    def draw(self, keys: Tensor) -> Tensor:
        """Vectors of samples by their keys, (B,) int64 -> (B, d)."""
        edges = self.shares.double().cumsum(0)[:-1].contiguous()
        which = torch.bucketize(uniform(derived(keys, "component"))[:, 0].to(edges.device), edges)
        noise = normal(derived(keys, "latent"), tuple(self.means.shape[1:])).to(self.means.device)
        drawn: Tensor = self.means[which] + torch.einsum("bij,bj->bi", self.factors[which], noise)
        return drawn
