"""How much images are like others, pair by pair."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["psnr"]


def psnr(images: Tensor, others: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels, from the mean squared error over all pairs; infinite for equal ones.

    Args:
        images: In [-1, 1], (n, C, H, W).
        others: Of the same shape.
    """
    error = (images.double() - others.double()).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(4 / error)
