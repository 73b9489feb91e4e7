"""Densities: normalised, scores equal autograd's, samples follow them."""

from __future__ import annotations

import math

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.data import GaussianMixture, Rings

UNEVEN = GaussianMixture(weights=(0.2, 0.5, 0.3), means=((0.0, 0.0), (2.0, 1.0), (-1.0, 2.0)), stds=(0.3, 0.6, 0.2))
DENSITIES = [GaussianMixture(), UNEVEN, Rings(), Rings(radii=(0.4, 1.2), weights=(0.3, 0.7), std=0.3)]
each = pytest.mark.parametrize("density", DENSITIES, ids=["ring", "uneven", "rings", "wide rings"])


def grid(reach: float = 6.0, side: int = 1201):
    """Points of a square grid, (side**2, 2), and the area of a cell."""
    axis = torch.linspace(-reach, reach, side, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]).item() ** 2


@each
def test_the_density_integrates_to_one(density):
    points, cell = grid()
    # The trapezoid rule converges exponentially on smooth densities: cells of 0.01 against widths of 0.08 and more.
    assert density.log_prob(points).exp().sum().item() * cell == pytest.approx(1, abs=1e-9)


@each
def test_the_score_is_the_gradient(density):
    x = (density.sample(200, seed=1).double() + 0.05).requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    assert torch.allclose(density.score(x.detach()), gradient, rtol=1e-9, atol=1e-9)


@each
def test_samples_follow_the_density(density):
    """The mean log density of samples is minus the entropy, and first and second moments agree."""
    points, cell = grid()
    log_prob = density.log_prob(points)
    mass = log_prob.exp() * cell
    drawn = density.sample(20_000, seed=2).double()
    found = density.log_prob(drawn)
    assert (found.mean() - (mass * log_prob).sum()).abs() < 4 * found.std() / math.sqrt(len(drawn))
    for power in (1, 2):
        moment, sampled = (mass[:, None] * points**power).sum(0), (drawn**power).mean(0)
        assert ((sampled - moment).abs() < 4 * (drawn**power).std(0) / math.sqrt(len(drawn))).all()


def test_rings_at_and_near_the_centre():
    rings = Rings(radii=(0.5,), std=0.3)
    near = torch.tensor([[0.0, 0.0], [1e-9, 0.0], [1e-4, 0.0]], dtype=torch.float64)
    score = rings.score(near)
    assert score[0].tolist() == [0, 0]
    slope = (0.5**2 / (2 * 0.3**2) - 1) / 0.3**2  # the curvature of log p at the centre, by expanding I_0
    assert torch.allclose(score[1:, 0] / near[1:, 0], torch.full((2,), slope, dtype=torch.float64), rtol=1e-5)


def test_far_away_nothing_overflows():
    far = torch.tensor([[50.0, 0.0], [0.0, -80.0]])
    for density in DENSITIES:
        assert density.log_prob(far).isfinite().all()
        assert (density.score(far) * far).sum(1).lt(0).all()  # it points home


def test_ring_preset_is_the_default():
    assert GaussianMixture.ring() == GaussianMixture()
    weights, means, stds = GaussianMixture.ring(components=5, radius=2, std=0.1).parameters()
    assert torch.allclose(means.norm(dim=1), torch.full((5,), 2.0, dtype=torch.float64))
    assert stds.tolist() == [0.1] * 5
    assert weights.sum().item() == pytest.approx(1)


def test_other_dimensions():
    line = GaussianMixture(means=((-1.0,), (1.0,)), stds=(0.5, 0.5))
    x = torch.linspace(-8, 8, 2001, dtype=torch.float64)[:, None]
    assert line.log_prob(x).exp().sum().item() * (16 / 2000) == pytest.approx(1, abs=1e-9)
    one = GaussianMixture(means=((0.0,) * 5,), stds=(2.0,))
    assert one.log_prob(torch.zeros(1, 5)).item() == pytest.approx(-5 * math.log(2 * math.sqrt(2 * math.pi)))


@each
def test_load_gives_labelled_points(density):
    data = density.replace(count=3000, seed=4).load()
    assert data.shape == (2,)
    assert not data.is_images
    batch = data.batch(torch.arange(3000))
    assert torch.equal(batch.x0, density.sample(3000, seed=4))
    assert (density.sample(10, seed=4) == batch.x0[:10]).all()
    share = torch.bincount(batch.cond.values["label"], minlength=len(data.classes)) / 3000
    assert torch.allclose(share.double(), density.component_weights, atol=0.04)  # 4 standard deviations
    # A point is likeliest under its own component more often than not.
    likeliest = density.log_components(batch.x0).argmax(1)
    assert (likeliest == batch.cond.values["label"]).double().mean() > 0.75


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (GaussianMixture, {"means": ((0, 0), (1,)), "stds": (1, 1)}, "same number of coordinates"),
        (GaussianMixture, {"means": ((0, 0),), "stds": (1, 1)}, "must be 1 finite numbers above 0"),
        (GaussianMixture, {"means": ((0, 0),), "stds": (0,)}, "must be 1 finite numbers above 0"),
        (Rings, {"radii": (1, 2), "weights": (0.5, 0.6)}, "must be 2 numbers above 0 that sum to 1"),
        (Rings, {"std": 0}, "greater than 0"),
    ],
)
def test_wrong_fields_are_refused(part, fields, message):
    with pytest.raises(UsageError, match=message):
        parse(part, fields)
