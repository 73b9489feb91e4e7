"""Pair metrics: their limits, derivatives and scales."""

from __future__ import annotations

import math

import pytest
import torch

from suffuse.objectives.pair_metric import L1, L2, Cauchy, GemanMcClure, PairMetricPart, PseudoHuber, adaptive_c

METRICS = (L1(), L2(), PseudoHuber(c=0.3), PseudoHuber(c=0.0), Cauchy(c=0.3), GemanMcClure(c=0.3))


def _at(metric: PairMetricPart, length: float, size: int = 1) -> float:
    x = torch.zeros(1, size, dtype=torch.float64)
    x[0, 0] = length
    return metric.distance(x, size, None).item()


def _slope(metric: PairMetricPart, length: float) -> float:
    x = torch.tensor([[length]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(metric.distance(x, 1, None).sum(), x)
    return slope.item()


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_equal_samples_are_at_distance_zero_with_a_finite_gradient(metric: PairMetricPart) -> None:
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = metric.of(x, x.detach())
    assert torch.equal(value, torch.zeros(4))
    value.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_no_gradient_reaches_the_target() -> None:
    mine, target = torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    L2().of(mine, target).sum().backward()
    assert target.grad is None


def test_pseudo_huber_limits() -> None:
    c = 0.3
    assert _at(PseudoHuber(c=c), 1e4) == pytest.approx(1e4 - c, rel=1e-8)
    assert _at(PseudoHuber(c=c), c / 30) == pytest.approx((c / 30) ** 2 / (2 * c), rel=1e-3)
    assert _at(PseudoHuber(c=0.0), 3.0) == pytest.approx(3.0)
    assert _at(PseudoHuber(c=c), 2.0) == pytest.approx(math.sqrt(4 + c * c) - c)


def test_pseudo_huber_takes_the_norm_of_the_whole_sample() -> None:
    x = torch.full((1, 3, 4, 4), 0.5)
    expected = math.sqrt(48 * 0.25 + 0.01) - 0.1
    assert PseudoHuber(c=0.1).of(x, torch.zeros_like(x)).item() == pytest.approx(expected, rel=1e-6)


def test_c_by_size_is_that_of_the_paper() -> None:
    assert PseudoHuber().c_of(3 * 32 * 32, 160) == pytest.approx(0.02993, abs=1e-5)
    assert Cauchy(c="grid").c_of(4 * 32 * 32, 10) == pytest.approx(0.03456, abs=1e-5)


def test_adaptive_c_falls_with_the_grid() -> None:
    expected = {20: 0.0136, 40: 0.0061, 80: 0.0028, 160: 0.00125, 320: 0.00056, 640: 0.00025}
    for intervals, value in expected.items():
        assert Cauchy(c="grid").c_of(100, intervals) == adaptive_c(intervals) == pytest.approx(value, rel=0.02)
    assert adaptive_c(20) == pytest.approx(math.exp(-1.15 * math.log(20) - 0.85), rel=1e-12)


def test_cauchy_is_a_square_for_small_and_steepest_at_root_two_c() -> None:
    c = 0.3
    assert _at(Cauchy(c=c), c / 100) == pytest.approx((c / 100) ** 2 / (2 * c * c), rel=1e-4)
    steepest = _slope(Cauchy(c=c), math.sqrt(2) * c)
    assert steepest > _slope(Cauchy(c=c), math.sqrt(2) * c * 1.05)
    assert steepest > _slope(Cauchy(c=c), math.sqrt(2) * c * 0.95)
    assert _slope(Cauchy(c=c), 100.0) == pytest.approx(2 / 100, rel=1e-3)


def test_geman_mcclure_forgets_outliers() -> None:
    assert _at(GemanMcClure(c=0.3), 1e6) == pytest.approx(2.0)
    assert _slope(GemanMcClure(c=0.3), 100.0) < 1e-5


def test_sum_and_mean_differ_by_the_root_of_the_size_in_c() -> None:
    x, zero = torch.full((1, 100), 0.2), torch.zeros(1, 100)
    by_sum, by_mean = PseudoHuber(c=1.0).of(x, zero), PseudoHuber(c=0.1, reduce="mean").of(x, zero)
    assert by_sum.item() == pytest.approx(10 * by_mean.item(), rel=1e-5)
