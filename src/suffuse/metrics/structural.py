"""Structural similarity of images, pair by pair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suffuse.base.errors import UsageError

__all__ = ["ssim"]

_SIDE, _SIGMA = 11, 1.5  # of the window, as in the source
_K1, _K2 = 0.01, 0.03


def ssim(images: Tensor, others: Tensor, batch: int = 256) -> float:
    """Mean structural similarity over pairs, pixels and channels, 1 for equal images.

    Local means, variances and covariances are weighted by a Gaussian window, and only places count where the whole
    window lies inside the image. Images smaller than the window get the largest odd one that fits.

    Source: wang2004ssim, Eqs. 13 to 17.

    Args:
        images: In [-1, 1], (n, C, H, W).
        others: Of the same shape.
        batch: Pairs at a time.

    Raises:
        UsageError: Shapes that are no images or differ.
    """
    if images.shape != others.shape or images.ndim != 4:
        raise UsageError(f"ssim compares images (n, C, H, W) in pairs, not {tuple(images.shape)} {tuple(others.shape)}")
    starts = range(0, len(images), batch)
    return sum(_summed(_light(images[k : k + batch]), _light(others[k : k + batch])) for k in starts) / len(images)


def _light(images: Tensor) -> Tensor:
    """Intensities from 0 to 1, for which the measure is made: the luminance of two dark places is not negative."""
    return (images.double() + 1) / 2


def _summed(x: Tensor, y: Tensor) -> float:
    """Sum over the pairs of each one's mean."""
    side = min(_SIDE, *(size - 1 + size % 2 for size in x.shape[2:]))
    places = torch.arange(side, dtype=x.dtype, device=x.device) - side // 2
    window = (-(places**2) / (2 * _SIGMA**2)).exp()
    window = window / window.sum()
    channels = x.shape[1]

    def local(values: Tensor) -> Tensor:
        rows = F.conv2d(values, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(rows, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return float((luminance * structure).mean(dim=(1, 2, 3)).sum())
