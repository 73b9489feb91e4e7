import itertools
import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from suffuse.base.errors import RunError, UsageError
from suffuse.metrics import kl_divergence, mode_coverage, sliced_wasserstein, wasserstein


def _normal(n, d, seed, shift=0.0, scale=1.0):
    return scale * torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


def test_wasserstein_matches_the_best_permutation():
    x, y = _normal(6, 2, 0), _normal(6, 2, 1)
    cost = torch.cdist(x, y).square()
    best = min(sum(cost[i, p[i]] for i in range(6)) for p in itertools.permutations(range(6)))
    assert wasserstein(x, y, seed=0).value == pytest.approx(math.sqrt(best / 6), rel=1e-10)


def test_a_shift_is_its_own_length_even_far_from_the_origin():
    x, shift = _normal(300, 3, 0, shift=1000.0), torch.tensor([3.0, 0.0, 4.0])
    assert wasserstein(x, x + shift, seed=0).value == pytest.approx(5, rel=1e-9)
    # Projected on a random axis, a shift keeps a third of its square on average in three dimensions.
    assert sliced_wasserstein(x, x + shift, seed=0, directions=4000) == pytest.approx(5 / math.sqrt(3), rel=0.03)


def test_two_gaussians_come_near_their_closed_form_and_say_how_many_points_were_used():
    found = wasserstein(_normal(900, 2, 0), _normal(700, 2, 1, shift=2.0), seed=0, limit=500)
    assert found.points == (500, 500)
    # |shift| = 2 sqrt 2; the sampling error of 500 points in 2-D is some hundredths.
    assert found.value == pytest.approx(2 * math.sqrt(2), rel=0.05)
    assert found == wasserstein(_normal(900, 2, 0), _normal(700, 2, 1, shift=2.0), seed=0, limit=500)


def test_sliced_in_one_dimension_is_the_distance_of_the_quantile_functions():
    x, y = _normal(30, 1, 0), _normal(45, 1, 1, shift=0.5)
    fine = [points.sort(0).values[:, 0].repeat_interleave(repeats) for points, repeats in ((x, 3), (y, 2))]
    expected = math.sqrt(float((fine[0] - fine[1]).square().mean()))
    assert sliced_wasserstein(x, y, seed=0, directions=3) == pytest.approx(expected, rel=1e-12)
    assert wasserstein(x, y, seed=0).value == pytest.approx(expected, rel=1e-10)
    first_moment = wasserstein_distance(x[:, 0], y[:, 0])
    assert first_moment <= expected  # W1 is at most W2
    assert sliced_wasserstein(x, x, seed=0) == 0


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 1.0), (0.0, 0.5)])
def test_kl_of_gaussians_is_the_closed_form(shift, scale):
    samples = _normal(4000, 2, 0, shift=shift, scale=scale)

    def log_density(x):
        return -x.square().sum(1) / 2 - math.log(2 * math.pi)

    expected = 2 * (scale**2 - 1 + shift**2) / 2 - 2 * math.log(scale)
    # Deviation of the estimator for 4,000 points: about sqrt((d / 2 + 1 / k) / n) = 0.02.
    assert kl_divergence(samples, log_density) == pytest.approx(expected, abs=0.06)


def test_kl_refuses_copies_and_densities_that_are_not_finite():
    with pytest.raises(RunError, match="50 of 50 samples have 4 exact copies"):
        kl_divergence(torch.ones(50, 2), lambda x: x.sum(1))
    with pytest.raises(RunError, match="not finite at 50 of 50"):
        kl_divergence(_normal(50, 2, 0), lambda x: x.sum(1) / 0)
    with pytest.raises(UsageError, match="at least 5"):
        kl_divergence(_normal(4, 2, 0), lambda x: x.sum(1))


def test_modes_are_counted_and_weighed():
    means = torch.tensor([[-10.0, 0.0], [0.0, 0.0], [10.0, 0.0]])
    stds, weights = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.5, 0.25, 0.25])
    samples = torch.cat([means[0] + _normal(300, 2, 0, scale=0.5), means[1] + _normal(100, 2, 1, scale=0.5)])
    found = mode_coverage(samples, means, stds, weights)
    assert (found.covered, found.modes) == (2, 3)
    assert found.imbalance == pytest.approx(0.25)  # shares 3/4, 1/4, 0
    # Within three deviations in 2-D lie 1 - exp(-4.5) = 98.9 %; three binomial errors of 400 samples are 1.6 %.
    assert found.inside == pytest.approx(0.989, abs=0.016)
    with pytest.raises(UsageError, match=r"3 means have \(3,\) stds and \(3,\) weights of sum 1.25"):
        mode_coverage(samples, means, stds, weights + torch.tensor([0.25, 0, 0]))
