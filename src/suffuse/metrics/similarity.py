"""How much images are like others, pair by pair."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["SquaredError", "psnr"]


class SquaredError:
    """Mean squared error over pairs of images in [-1, 1], a batch at a time."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, images: Tensor, others: Tensor) -> None:
        """Take in some pairs, (n, C, H, W) each."""
        self._sum += (images.double() - others.double()).square().sum().item()
        self._count += images.numel()

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio in decibels; infinite for equal images."""
        return math.inf if self._sum == 0 else 10 * math.log10(4 * self._count / self._sum)


def psnr(images: Tensor, others: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels, from the mean squared error over all pairs; infinite for equal ones.

    Args:
        images: In [-1, 1], (n, C, H, W).
        others: Of the same shape.
    """
    error = SquaredError()
    error.add(images, others)
    return error.psnr
