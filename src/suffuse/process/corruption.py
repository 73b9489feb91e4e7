"""Corruption of a condition in training, so that a model forgives what an imperfect earlier stage tells it."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.part import Part
from suffuse.base.randomness import derived, normal, uniform
from suffuse.process import ClampedCosine, Path

__all__ = ["Corruption"]


class Corruption(Part):
    """A condition of unit variance is left out for some samples and diffused for others.

    The network is not told how far, unless the conditioner that has it does so.

    Source: pernias2024wuerstchen (its code): left out for 5 %, else for 30 % diffused to a time up to 0.5. It decides
    for a whole batch, here each sample has its own; ho2022cascaded, Section 3.2, for the idea.

    Attributes:
        drop: Share of the samples whose condition becomes zero.
        noise: Share of the others whose condition is diffused.
        up_to: Share of the path's times up to which.
        path: On which.
    """

    drop: float = Field(default=0.05, ge=0, lt=1)
    noise: float = Field(default=0.3, ge=0, le=1)
    up_to: float = Field(default=0.5, ge=0, le=1)
    path: Path = ClampedCosine()

    def of(self, x: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """The corrupted condition, and how far each sample's is diffused.

        Args:
            x: Of unit variance, (B, ...).
            seeds: Keys of the samples, (B,) int64.

        Returns:
            (B, ...); share of the path's times in [0, up_to], (B,) float64, 0 where nothing was added.
        """
        drawn = uniform(derived(seeds, "corruption"), 3)
        noisy = (drawn[:, 1] < self.noise) & (self.up_to > 0)
        share = torch.where(noisy, drawn[:, 2] * self.up_to, torch.zeros_like(drawn[:, 2]))
        changed = self.at(x, share, normal(derived(seeds, "corruption noise"), tuple(x.shape[1:])))
        places = (-1, *(1,) * (x.ndim - 1))
        changed = torch.where(noisy.reshape(places), changed, x)
        dropped = (drawn[:, 0] < self.drop).reshape(places)
        return torch.where(dropped, torch.zeros_like(x), changed), share

    def at(self, x: Tensor, share: Tensor, eps: Tensor) -> Tensor:
        """The condition diffused to a share of the path's times each: (B, ...)."""
        t = self.path.t_min + share * (self.path.t_max - self.path.t_min)
        level = self.path.level(t, x)
        diffused: Tensor = level.alpha * x + level.sigma * eps.to(x.dtype)
        return diffused
