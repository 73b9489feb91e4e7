"""Rates of consistency models without a network: recursions on laws where they are known, and recorded values."""

from __future__ import annotations

import numpy as np
import pytest

from suffuse.claims.exact import ConsistencyBias, StatisticalRate
from suffuse.claims.exact.consistency_rates import Line, karras, one_step_map

STD, EPS, T = 0.5, 0.002, 80.0


def _ratio(intervals: int, method: str) -> float:
    """Of the map's slope to the exact one, on N(0, 0.25), whose maps are linear."""
    x = np.linspace(-200, 200, 9)
    made = one_step_map(Line.normal(STD), x, intervals, method)  # type: ignore[arg-type]  # a literal
    slope = np.polyfit(x, made, 1)[0]
    return float(slope / np.sqrt((STD**2 + EPS**2) / (STD**2 + T**2)))


def test_on_a_normal_law_training_is_euler_s_recursion() -> None:
    t = karras(64)
    by_hand = np.prod((STD**2 + t[:-1] * t[1:]) / (STD**2 + t[1:] ** 2))
    expected = float(by_hand / np.sqrt((STD**2 + EPS**2) / (STD**2 + T**2)))
    assert _ratio(64, "euler") == pytest.approx(expected, abs=1e-12)
    assert _ratio(64, "isolation") == pytest.approx(expected, rel=1e-6)  # tables of f are linear between their points
    assert expected == pytest.approx(0.95657, abs=2e-5)
    assert _ratio(64, "heun") == pytest.approx(1.003555, abs=2e-6)


@pytest.mark.parametrize(
    ("method", "expected"),
    [("euler", {16: 6.25e-2, 64: 1.57e-2}), ("heun", {16: 2.44e-2, 64: 1.26e-3}), ("isolation", {16: 1.27e-1})],
)
def test_recorded_biases(method: str, expected: dict[int, float]) -> None:
    found = ConsistencyBias(method=method, intervals=tuple(sorted({*expected, 64, 128}))).of(0)  # type: ignore[arg-type]  # a literal
    for count, value in expected.items():
        assert found[f"w1@{count}"] == pytest.approx(value, rel=0.02)


def test_maps_of_symmetric_data_keep_the_centre_and_the_order() -> None:
    line = Line(np.array([0.5, 0.5]), np.array([-0.6, 0.6]), np.array([0.1, 0.1]))
    x = np.linspace(-150, 150, 51)
    for method in ("euler", "heun", "isolation"):
        made = one_step_map(line, x, 32, method)  # type: ignore[arg-type]  # a literal
        assert abs(made[25]) < 1e-9
        assert np.all(np.diff(made) > 0)


def test_quantiles_are_those_of_the_law() -> None:
    line, u = Line.three(), (np.arange(2000) + 0.5) / 2000
    x = line.quantile(u, EPS)
    assert x.mean() == pytest.approx(line.mean, abs=1e-3)
    assert x.std() == pytest.approx(np.sqrt(line.scale**2 + EPS**2), rel=2e-3)


def test_a_trial_of_the_statistical_rate_has_all_values() -> None:
    found = StatisticalRate().smaller().of(0)
    assert {"slope_one", "slope_many", "slope_gap", "one@10", "many@20"} <= found.keys()
    assert found == StatisticalRate().smaller().of(0)
