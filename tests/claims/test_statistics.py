"""Intervals over seeds: against scipy's, and where they have no ends."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from suffuse.base.errors import UsageError
from suffuse.claims.statistics import mean_interval, ratio_interval

VALUES = [1.2, 0.9, 1.6, 1.1, 1.3]
OVER = [1.0, 1.1, 1.4, 0.7, 1.2]


def test_the_mean_has_students_interval() -> None:
    found = mean_interval(VALUES)
    low, high = stats.t.interval(0.95, len(VALUES) - 1, loc=sum(VALUES) / 5, scale=stats.sem(VALUES))
    assert found.estimate == pytest.approx(sum(VALUES) / 5)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.seeds == 5


def test_paired_ratios_have_the_interval_of_a_paired_test_on_logarithms() -> None:
    found = ratio_interval(VALUES, OVER)
    logs = [math.log(a / b) for a, b in zip(VALUES, OVER, strict=True)]
    test = stats.ttest_rel([math.log(a) for a in VALUES], [math.log(b) for b in OVER])
    interval = test.confidence_interval(0.95)
    assert found.estimate == pytest.approx(math.exp(sum(logs) / 5))
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_what_the_seeds_share_cancels_in_ratios() -> None:
    scale = [1.0, 10.0, 0.1, 3.0, 7.0]
    scaled = ratio_interval(
        [a * s for a, s in zip(VALUES, scale, strict=True)], [b * s for b, s in zip(OVER, scale, strict=True)]
    )
    assert (scaled.low, scaled.high) == pytest.approx(
        (ratio_interval(VALUES, OVER).low, ratio_interval(VALUES, OVER).high)
    )


def test_one_seed_has_no_ends_and_equal_seeds_have_no_width() -> None:
    one = mean_interval([2.0])
    assert (one.estimate, one.low, one.high) == (2.0, -math.inf, math.inf)
    assert ratio_interval([2.0], [1.0]).high == math.inf
    same = mean_interval([3.0, 3.0, 3.0])
    assert (same.low, same.high) == (3.0, 3.0)


def test_a_zero_makes_the_geometric_mean_zero() -> None:
    found = ratio_interval([0.0, 1.0], [1.0, 2.0])
    assert (found.estimate, found.low, found.high) == (0.0, 0.0, math.inf), "logarithms have no interval there"
    assert ratio_interval([0.0, 0.0], [1.0, 2.0]).high == 0.0
    assert ratio_interval([0.0], [1.0]).high == math.inf


def test_what_has_no_ratio_is_refused() -> None:
    with pytest.raises(UsageError, match="above 0"):
        ratio_interval([1.0], [0.0])
    with pytest.raises(UsageError, match="cannot be paired"):
        ratio_interval([1.0, 2.0], [1.0])
    with pytest.raises(UsageError, match="at least one"):
        mean_interval([])
