"""Structural similarity against SciPy's Gaussian filter, which another implementation stands on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.metrics import ssim


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(shape, generator=generator) * 2 - 1
    return images, (images + 0.3 * torch.randn(shape, generator=generator)).clamp(-1, 1)


def by_scipy(x: np.ndarray, y: np.ndarray, side: int) -> float:
    """Of one channel each, where the whole window fits."""

    def local(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, radius=side // 2)

    mx, my = local(x), local(y)
    vx, vy, cov = local(x * x) - mx**2, local(y * y) - my**2, local(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    found = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    edge = side // 2
    return float(found[edge : len(found) - edge, edge : found.shape[1] - edge].mean())


@pytest.mark.parametrize(("shape", "side"), [((3, 2, 32, 24), 11), ((2, 1, 17, 12), 11), ((2, 3, 8, 8), 7)])
def test_agrees_with_scipys_filter(shape, side):
    images, others = pair(*shape)
    light = [(values.double().flatten(0, 1).numpy() + 1) / 2 for values in (images, others)]
    channels = zip(*light, strict=True)
    wanted = np.mean([by_scipy(x, y, side) for x, y in channels])
    assert ssim(images, others) == pytest.approx(wanted, rel=1e-10)
    assert ssim(images, others, batch=1) == pytest.approx(wanted, rel=1e-10)


def test_equal_images_are_alike_and_opposite_ones_are_not():
    images, _ = pair(2, 1, 16, 16)
    assert ssim(images, images) == pytest.approx(1)
    assert ssim(images, -images) < 0


def test_more_noise_is_less_alike():
    images, _ = pair(4, 1, 16, 16)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    found = [ssim(images, images + size * noise) for size in (0.05, 0.2, 0.8)]
    assert found == sorted(found, reverse=True)


def test_what_are_no_pairs_of_images():
    images, _ = pair(2, 1, 16, 16)
    with pytest.raises(UsageError, match="in pairs"):
        ssim(images, images[:1])
    with pytest.raises(UsageError, match="in pairs"):
        ssim(images[0], images[0])
