"""Box plots in numbers, and the error of images that came back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from suffuse.metrics import psnr, spread


def test_quartiles_fences_and_what_lies_beyond() -> None:
    found = spread("numbers", np.array([*range(101), 1000.0, -900.0]))
    low, middle, high = found.quartiles
    assert (low, middle, high) == (24.5, 50.0, 75.5)
    assert found.fences == (24.5 - 3 * 51, 75.5 + 3 * 51)
    assert found.extremes == (-900.0, 1000.0)
    assert found.outside == pytest.approx(2 / 103)


def test_gaussian_numbers_have_hardly_any_beyond_and_heavy_tails_have() -> None:
    """Outer fences of a Gaussian stand at 4.7 deviations: two of a million."""
    rng = np.random.default_rng(0)
    assert spread("gaussian", rng.standard_normal(100_000)).outside < 1e-4
    assert spread("heavy", rng.standard_t(2, 100_000)).outside > 0.01


def test_of_many_extremes_some_are_kept_the_furthest_among_them() -> None:
    values = np.concatenate([np.linspace(-1, 1, 10_000), np.linspace(100, 200, 900), [-500.0]])
    found = spread("many", values, most=50)
    assert len(found.extremes) == 50
    assert (found.extremes[0], found.extremes[-1]) == (-500.0, 200.0)
    assert found.outside == pytest.approx(901 / 10_901)


def test_numbers_that_do_not_spread() -> None:
    found = spread("constant", np.ones((3, 4)))
    assert (found.outside, found.furthest, found.extremes) == (0, 0, ())


def test_psnr_of_a_known_error() -> None:
    images = torch.zeros(2, 1, 4, 4)
    assert psnr(images, images + 0.2) == pytest.approx(10 * math.log10(4 / 0.04), abs=1e-5)
    assert psnr(images, images) == math.inf
