import importlib

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from suffuse.base.errors import UsageError
from suffuse.metrics import density_coverage, precision_recall

module = importlib.import_module("suffuse.metrics.precision_recall")  # the package gives its function that name


def _normal(n, d, seed, shift=0.0, scale=1.0):
    return scale * torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


def _membership(real, generated, k):
    """Brute force: (generated, real) bool, and its transpose of the generated balls, by scikit-learn."""

    def inside(points, centres):
        radii = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(centres).kneighbors()[0][:, -1]
        return np.linalg.norm(points[:, None] - centres[None], axis=2) <= radii

    return inside(generated, real), inside(real, generated)


def test_all_four_match_brute_force_across_blocks(monkeypatch):
    monkeypatch.setattr(module, "_POINTS", 13)
    monkeypatch.setattr(module, "_CENTRES", 29)
    real, generated = _normal(120, 3, 0), _normal(90, 3, 1, shift=0.7, scale=0.8)
    in_real, in_generated = _membership(real.numpy(), generated.numpy(), 3)
    found = precision_recall(real, generated, k=3)
    assert found.precision == pytest.approx(in_real.any(1).mean(), abs=1e-12)
    assert found.recall == pytest.approx(in_generated.any(1).mean(), abs=1e-12)
    in_real, _ = _membership(real.numpy(), generated.numpy(), 5)
    spread = density_coverage(real, generated, k=5)
    assert spread.density == pytest.approx(in_real.sum(1).mean() / 5, abs=1e-12)
    assert spread.coverage == pytest.approx(in_real.any(0).mean(), abs=1e-12)


def test_equal_sets_are_perfect_and_distant_ones_share_nothing():
    real = _normal(100, 4, 0)
    same, apart = precision_recall(real, real), precision_recall(real, real + 100)
    assert (same.precision, same.recall) == (1, 1)
    assert (apart.precision, apart.recall) == (0, 0)
    assert density_coverage(real, real).coverage == 1
    # Each point lies in its own ball and on average in those of k others: (k + 1) / k.
    assert density_coverage(real, real, k=5).density == pytest.approx(6 / 5)


def test_collapse_costs_recall_and_coverage_but_not_precision():
    real, narrow = _normal(400, 2, 0), _normal(400, 2, 1, scale=0.1)
    found, spread = precision_recall(real, narrow), density_coverage(real, narrow)
    assert found.precision > 0.99
    assert found.recall < 0.1
    assert spread.density > 1
    assert spread.coverage < 0.2


def test_repeated_images_lie_in_their_balls_of_radius_zero():
    real = _normal(4, 6, 0).repeat_interleave(5, dim=0) + 50
    copies = real[::5].clone()
    fakes = torch.cat([copies, copies + 1e-3])
    assert precision_recall(real, fakes).precision == 0.5
    assert density_coverage(real, fakes, k=3).coverage == 1


def test_too_few_points_are_refused():
    with pytest.raises(UsageError, match="the generated set has 3 points; at least 4"):
        precision_recall(torch.zeros(10, 2), torch.zeros(3, 2))
    with pytest.raises(UsageError, match="width 2 and the generated set has width 3"):
        density_coverage(torch.zeros(10, 2), torch.zeros(10, 3))
