"""A cloud of Gaussians with impulsive outliers: latents of autoencoders as a loss sees them, with the truth known."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from suffuse.base.randomness import keys, normal, uniform
from suffuse.data.densities import MixturePart

__all__ = ["OutlierMixture"]


class OutlierMixture(MixturePart):
    """Equal Gaussians at random places; of some points one coordinate is multiplied, as in impulsive noise.

    Without outliers it has the standard deviation `std` along every axis, about.

    Source: dao2025slct, Section 3, whose box plots of latents this imitates.

    Attributes:
        dimensions: D.
        components: K.
        std: Of the whole cloud along an axis.
        spread: Of a component over that of the cloud.
        share: Of points that are outliers.
        factor: On one coordinate of an outlier, which one is random.
        places: Seed of the components' places, which belong to the distribution; `seed` is of the points.
    """

    kind: Literal["outliers"] = "outliers"
    dimensions: int = Field(default=16, ge=1)
    components: int = Field(default=8, ge=1)
    std: float = Field(default=0.5, gt=0)
    spread: float = Field(default=0.2, gt=0, lt=1)
    share: float = Field(default=0.02, ge=0, lt=1)
    factor: float = Field(default=10.0, ge=1)
    places: int = 0

    @model_validator(mode="after")
    def _some_stay(self) -> Self:
        if self.share > 0.5:
            raise ValueError(f"share {self.share} makes most points outliers; use at most 0.5")
        return self

    @property
    def component_weights(self) -> Tensor:
        """Equal shares, (K,) float64."""
        return torch.full((self.components,), 1 / self.components, dtype=torch.float64)

    @property
    def means(self) -> Tensor:
        """Places of the components, (K, D) float64."""
        drawn = normal(keys(self.places, "outliers: places", 0, torch.arange(self.components)), (self.dimensions,))
        return drawn.double() * self.std * math.sqrt(1 - self.spread**2)

    @property
    def component_std(self) -> float:
        """Of a component along an axis."""
        return self.std * self.spread

    def _points(self, key: Tensor, component: Tensor) -> Tensor:
        clean = self.means[component] + self.component_std * normal(key, (self.dimensions,)).double()
        # Of the same key, but of another stream: uniform numbers of a key are not its normal ones.
        drawn = uniform(key ^ 0x5DEECE66D, 2)
        hit = torch.nn.functional.one_hot((drawn[:, 1] * self.dimensions).long(), self.dimensions).bool()
        factors = torch.where(hit & (drawn[:, :1] < self.share), self.factor, 1.0)
        return clean * factors
