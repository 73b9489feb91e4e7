"""Points on a union of random subspaces: data of known low dimension in a space of any size."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from suffuse.base.randomness import keys, normal
from suffuse.data.densities import MixturePart, check_components, equal_or

__all__ = ["LowRankMixture"]


class LowRankMixture(MixturePart):
    """Mixture of low-rank Gaussians: x0 = U_k (std a), a unit normal in `rank` dimensions, U_k orthonormal.

    The points fill subspaces of measure zero: they have no density, and so this is no `DensityPart`. The density of
    noisy points and their posterior mean are `models.exact_low_rank.ExactLowRank(path, *parameters())`.

    Source: wang2024subspace, Section 3 (MoLRG; there std = 1).

    Attributes:
        ambient: Dimensions n of the space.
        rank: Dimensions d of each subspace.
        components: Number K of subspaces.
        weights: Their shares, sum 1; None for equal ones.
        stds: Standard deviations along a subspace's axes; None for 1.
        subspaces: Seed of the subspaces, which belong to the distribution; `seed` is of the points. They are equal on
            all machines up to the rounding of a QR decomposition.
        orthogonal: Whether the subspaces are orthogonal to each other; they are independent and uniform otherwise.
    """

    kind: Literal["low_rank"] = "low_rank"
    ambient: int = Field(default=48, ge=2)
    rank: int = Field(default=7, ge=1)
    components: int = Field(default=2, ge=1)
    weights: tuple[float, ...] | None = None
    stds: tuple[float, ...] | None = None
    subspaces: int = 0
    orthogonal: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        needed = self.rank * (self.components if self.orthogonal else 1)
        if self.rank >= self.ambient or needed > self.ambient:
            raise ValueError(
                f"rank {self.rank} of {self.components} subspaces does not fit ambient {self.ambient}: a subspace "
                "needs fewer dimensions than the space, and orthogonal ones no more than it together"
            )
        check_components(self.weights, self.components)
        if self.stds is not None:
            check_components(None, self.rank, stds=self.stds)
        return self

    @property
    def component_weights(self) -> Tensor:
        """Shares of the subspaces, (K,) float64."""
        return equal_or(self.weights, self.components)

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (K,), bases (K, n, d) and standard deviations along their columns (d,), float64."""
        stds = torch.tensor(self.stds or (1.0,) * self.rank, dtype=torch.float64)
        return self.component_weights, self._bases(), stds

    def _bases(self) -> Tensor:
        """Orthonormal bases, (K, n, d) float64."""
        key = keys(self.subspaces, "low rank: subspace", 0, torch.arange(self.components))
        drawn = normal(key, (self.ambient, self.rank)).double()
        if self.orthogonal:
            drawn = drawn.permute(1, 0, 2).reshape(1, self.ambient, -1)
        q, r = torch.linalg.qr(drawn)
        # A QR is unique once the signs of R's diagonal are chosen; libraries choose differently.
        bases: Tensor = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
        return bases.reshape(self.ambient, -1, self.rank).permute(1, 0, 2) if self.orthogonal else bases

    def _points(self, key: Tensor, component: Tensor) -> Tensor:
        _, bases, stds = self.parameters()
        inside = stds * normal(key, (self.rank,)).double()
        points = inside.new_zeros(len(key), self.ambient)
        for number, basis in enumerate(bases):
            points = torch.where((component == number)[:, None], inside @ basis.T, points)
        return points
