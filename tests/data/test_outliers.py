"""The cloud with outliers: its moments, its outliers, and that the rest is the clean cloud."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from suffuse.data import OutlierMixture


def test_without_outliers_it_is_a_mixture_of_gaussians() -> None:
    cloud = OutlierMixture(share=0.0, dimensions=4, components=3)
    x, component = cloud._drawn(30_000, 0)
    for k in range(3):
        mine = x[component == k].double()
        assert torch.allclose(mine.mean(0), cloud.means[k], atol=0.01)
        assert torch.allclose(mine.std(0), torch.full((4,), cloud.component_std, dtype=torch.float64), rtol=0.05)


def test_outliers_are_as_many_as_asked_and_hit_one_coordinate() -> None:
    clean, dirty = (OutlierMixture(share=share).sample(50_000, seed=3) for share in (0.0, 0.02))
    ratio = dirty / clean
    hit = (ratio - 10).abs() < 1e-3
    assert hit.any(1).float().mean().item() == pytest.approx(0.02, abs=0.002)
    assert int(hit.sum(1).max()) == 1
    assert torch.equal(dirty[~hit], clean[~hit])
    which = hit.any(0)
    assert bool(which.all()), "every coordinate is hit sometimes"


def test_the_whole_has_the_standard_deviation_asked_for() -> None:
    stds = [OutlierMixture(share=0.0, places=seed, components=64).sample(20_000, seed=0).std(0) for seed in range(4)]
    assert torch.stack(stds).mean().item() == pytest.approx(0.5, rel=0.05)


def test_most_points_are_no_outliers() -> None:
    with pytest.raises(ValidationError, match="most points outliers"):
        OutlierMixture(share=0.7)
