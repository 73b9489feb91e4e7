"""Random masks of what is known of a picture: holes in the form of rectangles and of strokes, of a chosen share."""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor

from suffuse.base.part import Part
from suffuse.base.randomness import derived, uniform

__all__ = ["RandomMasks"]


class RandomMasks(Part):
    """One hole a picture: a rectangle, or the surroundings of a broken line.

    The hole is made of the pixels that are nearest to a point or a line, as many as its share asks for, so that the
    share is exact also where the hole reaches beyond the picture's edge.

    Source: rombach2022ldm, Section 4.5, trains on such masks.
    Deviation: their generator is not described; this one has no relation to it but for the two kinds.

    Attributes:
        share: Least and largest share of the pixels that is unknown.
        strokes: Probability of a stroke; others are rectangles.
        bends: Straight pieces of a stroke.
    """

    share: tuple[float, float] = (0.1, 0.6)
    strokes: float = Field(default=0.5, ge=0, le=1)
    bends: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> RandomMasks:
        if not 0 <= self.share[0] <= self.share[1] <= 1:
            raise ValueError(f"share {self.share} must be two numbers in [0, 1], the smaller one first")
        return self

    def draw(self, keys: Tensor, height: int, width: int) -> Tensor:
        """Masks by the samples' keys: (B,) int64 -> (B, 1, height, width) float32 of 1 (known) and 0."""
        drawn = uniform(derived(keys, "masks"), 6 + 2 * self.bends)
        share = self.share[0] + (self.share[1] - self.share[0]) * drawn[:, 0]
        y = (torch.arange(height, device=keys.device, dtype=torch.float64) + 0.5)[None, :, None] / height
        x = (torch.arange(width, device=keys.device, dtype=torch.float64) + 0.5)[None, None, :] / width
        stroke = (drawn[:, 1] < self.strokes)[:, None, None]
        far = torch.where(stroke, self._from_line(drawn[:, 4:], y, x), _from_centre(drawn[:, 2:5], y, x))
        order = far.flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
        known = order >= (share * height * width).round()[:, None]
        return known.float().reshape(-1, 1, height, width)

    def _from_line(self, drawn: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Distance from the nearest piece of a broken line through random points, (B, H, W)."""
        points = drawn[:, : 2 * (self.bends + 1)].reshape(len(drawn), self.bends + 1, 2)
        nearest = torch.full((), math.inf, dtype=torch.float64, device=drawn.device)
        for bend in range(self.bends):
            (ay, ax), (by, bx) = (points[:, place].T[:, :, None, None] for place in (bend, bend + 1))
            dy, dx = by - ay, bx - ax
            along = ((y - ay) * dy + (x - ax) * dx) / (dy.square() + dx.square()).clamp_min(1e-12)
            along = along.clamp(0, 1)
            nearest = torch.minimum(nearest, torch.hypot(y - ay - along * dy, x - ax - along * dx))
        return nearest


def _from_centre(drawn: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """How large a rectangle about a random centre, of random proportions up to 1 : 2, reaches a pixel, (B, H, W)."""
    centre_y, centre_x = drawn[:, 0, None, None], drawn[:, 1, None, None]
    stretch = 2.0 ** (drawn[:, 2, None, None] - 0.5)
    return torch.maximum((y - centre_y).abs() * stretch, (x - centre_x).abs() / stretch)
