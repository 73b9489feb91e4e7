"""E-TSDM's claims on known densities: closed forms and quadrature first, then the tables."""

from __future__ import annotations

import math

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.claims.exact.best_networks import exact_lipschitz, limit_exponent, price_of_sharing, sampled_distance
from suffuse.data import GaussianMixture, LowRankMixture
from suffuse.process import VP, X0, Eps, Flow, FlowVelocity, PathPart, PredictionPart, V

LINEAR, COSINE = VP(steps=1000), VP(schedule="cosine", steps=1000)
PLAIN, SCALED = VP(schedule="plain_cosine", steps=1000), VP(schedule="scaled_linear", steps=1000)
ZERO = VP(steps=1000, zero_terminal_snr=True)


@pytest.mark.parametrize("path", [LINEAR, COSINE, PLAIN, VP(), Flow()], ids=lambda p: f"{p.kind}-{p.indices}")
def test_steepness_on_one_gaussian_has_a_closed_form(path: PathPart) -> None:
    """eps* = sigma x / (alpha**2 s**2 + sigma**2), so that K is the change of that factor times E|x|."""
    std = 0.7
    times = [3.0, 50.0, 400.0] if path.indices else [0.003, 0.05, 0.4]
    one = GaussianMixture(means=((0.0, 0.0),), stds=(std,))
    found = exact_lipschitz(path=path, prediction=Eps(), density=one, times=times, samples=40_000, seed=0)
    step, length = (1.0, 1000.0) if path.indices else (1e-3, 1.0)

    def variance(t: torch.Tensor) -> torch.Tensor:
        return (path.alpha(t) * std) ** 2 + path.sigma(t) ** 2

    for t in times:
        here, there = (torch.tensor(at, dtype=torch.float64) for at in (t, t + step))
        change = path.sigma(there) / variance(there) - path.sigma(here) / variance(here)
        # E|x| in the plane: a Rayleigh mean.
        mean = variance(here).sqrt() * math.sqrt(math.pi / 2)
        assert found[t] == pytest.approx((change.abs() * mean / step * length).item(), rel=0.01)


@pytest.mark.parametrize(
    ("path", "prediction", "row"),
    [
        (LINEAR, Eps(), {0: 16.0, 5: 11.3, 20: 8.5, 40: 5.3, 100: 4.3, 400: 1.4}),
        (LINEAR, V(), {0: 15.2, 5: 10.6, 20: 8.0, 40: 4.7, 100: 2.6, 400: 0.8}),
        (LINEAR, X0(), {0: 0.38, 5: 0.68, 20: 1.4, 40: 1.9, 100: 1.4, 400: 2.6}),
        (SCALED, Eps(), {0: 38.8, 5: 16.3, 20: 6.0, 40: 3.2, 100: 2.8, 400: 1.9}),
        (COSINE, Eps(), {0: 9.7, 5: 6.2, 20: 5.0, 40: 4.3, 100: 2.2, 400: 2.3}),
        (PLAIN, Eps(), {0: 5.2, 5: 5.3, 20: 5.1, 40: 4.6, 100: 2.4, 400: 2.3}),
        (Flow(), Eps(), {0: 3.4, 5: 3.4, 20: 3.6, 40: 3.7, 100: 3.5, 400: 3.4}),
    ],
    ids=lambda value: value.kind if hasattr(value, "kind") else "",
)
def test_the_table_of_steepness(path: PathPart, prediction: PredictionPart, row: dict[int, float]) -> None:
    times = {index: float(index) if path.indices else (index + 1) / 1000 for index in row}
    found = exact_lipschitz(path=path, prediction=prediction, times=list(times.values()), samples=5000, seed=0)
    for index, value in row.items():
        assert found[times[index]] == pytest.approx(value, rel=0.15)


def test_where_the_singularity_is_and_where_not() -> None:
    def ratio(path: PathPart, prediction: PredictionPart) -> float:
        times = [0.0, 100.0] if path.indices else [0.001, 0.101]
        found = exact_lipschitz(path=path, prediction=prediction, times=times, samples=5000, seed=1)
        return found[times[0]] / found[times[1]]

    assert ratio(LINEAR, Eps()) > 3
    assert ratio(ZERO, V()) > 3  # zero terminal SNR mends the other end
    assert ratio(COSINE, V()) > 3
    assert ratio(LINEAR, X0()) < 1.2
    assert ratio(Flow(), Eps()) < 1.2
    assert ratio(Flow(), FlowVelocity()) < 1.2


@pytest.mark.parametrize("prediction", [Eps(), V(), X0()], ids=lambda p: p.kind)
def test_exponents_at_the_limit(prediction: PredictionPart) -> None:
    def found(path: PathPart, **fields: object) -> float:
        return limit_exponent(path=path, prediction=prediction, samples=500, seed=0, **fields)  # type: ignore[arg-type]

    is_x0 = prediction.kind == "x0"
    for path in (VP(), VP(schedule="cosine")):
        assert found(path) == pytest.approx(0 if is_x0 else -0.5, abs=0.02)
    # sigma**2 ~ t**2 there: eps changes like t, x0 like t**2.
    assert found(VP(schedule="plain_cosine")) == pytest.approx(1 if is_x0 else 0, abs=0.02)
    assert found(Flow()) == pytest.approx(0, abs=0.02)
    # Data without width across their subspace: x / sigma itself is singular, on every path.
    for path in (VP(), Flow()):
        flat = found(path, density=LowRankMixture(ambient=12, rank=2, components=1))
        assert flat == pytest.approx(0 if is_x0 else -1, abs=0.02)


@pytest.mark.parametrize(
    ("ambient", "rank", "bayes", "excess", "plugged_excess"),
    [
        (2, 1, 0.588, {1: 0.0809, 2: 0.0431, 5: 0.0168}, 1.45),
        (48, 7, 0.141, {1: 0.0094, 2: 0.0082, 5: 0.0053, 10: 0.0032}, 2.68),
        (192, 7, 0.0355, {1: 0.0024, 2: 0.0023, 5: 0.0018}, 3.03),
    ],
)
def test_the_table_of_prices(
    ambient: int, rank: int, bayes: float, excess: dict[int, float], plugged_excess: float
) -> None:
    for intervals, value in excess.items():
        price = price_of_sharing(ambient=ambient, rank=rank, intervals=intervals, samples=2000, seed=0)
        assert price.bayes == pytest.approx(bayes, rel=0.15)
        assert price.excess == pytest.approx(value, rel=0.15)
        assert price.excess < price.bound
        assert price.relative == pytest.approx(price.excess / price.bayes)
        if intervals == 5:
            assert price.plugged > 1  # answering 0 would be better
            assert price.plugged - price.bayes == pytest.approx(plugged_excess, rel=0.15)


@pytest.mark.parametrize("intervals", [10, 20])
def test_the_price_by_quadrature(intervals: int) -> None:
    """A line in the plane: the coordinate across it, z ~ N(0, sigma_u**2), is all that tells the time."""
    z, width = torch.linspace(-9, 9, 2001, dtype=torch.float64), 100 // intervals
    mass = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    total = 0.0
    for sigmas in LINEAR.sigma(torch.arange(100, dtype=torch.float64)).split(width):
        for sigma in sigmas:
            share = (-0.5 * (z * sigma)[:, None] ** 2 / sigmas**2 - sigmas.log()).softmax(1)
            total += (mass * (z - z * sigma * (share / sigmas).sum(1)) ** 2).sum().item()
    price = price_of_sharing(ambient=2, rank=1, components=1, intervals=intervals, samples=40_000, seed=0)
    assert price.excess == pytest.approx(total / 100 / 2, rel=0.05)


def test_the_price_in_limits() -> None:
    told_all = price_of_sharing(ambient=8, rank=3, intervals=100, samples=1000, seed=0)
    assert told_all.excess == pytest.approx(0, abs=1e-20)
    assert told_all.plugged == pytest.approx(told_all.bayes, rel=1e-9)
    by_eps, by_v = (
        price_of_sharing(ambient=48, rank=7, intervals=2, prediction=prediction, samples=1000, seed=0)
        for prediction in (Eps(), V())
    )
    assert by_v.bayes == pytest.approx(by_eps.bayes, rel=1e-9)  # the same estimate, said otherwise
    assert by_v.excess == pytest.approx(by_eps.excess, rel=0.1)  # near clean data v is almost eps


def test_sampling_by_the_best_networks() -> None:
    by_steps = {
        one.nfe: one for one in sampled_distance(steps=(5, 20, 50), samples=400, seed=0) if one.solver == "ddim"
    }
    few, some, many = by_steps[5], by_steps[20], by_steps[50]
    assert few.exact > some.exact > many.exact > 0.5 * many.floor
    # Five steps of 200 indices touch no shared time; their networks agree.
    assert few.shared == pytest.approx(few.exact, rel=1e-6)
    assert many.shared < 2 * many.exact
    assert many.plugged > 5 * many.shared


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="no multiple of the 100 shared"):
        price_of_sharing(ambient=8, rank=3, intervals=5, samples=250, seed=0)
    with pytest.raises(UsageError, match=r"times \[999.0\] have no noise, or no next"):
        exact_lipschitz(path=LINEAR, prediction=Eps(), times=[0.0, 999.0], seed=0)
    with pytest.raises(UsageError, match="undefined at time 999"):
        exact_lipschitz(path=ZERO, prediction=Eps(), times=[998.0], seed=0)
    with pytest.raises(UsageError, match="is a table"):
        limit_exponent(path=LINEAR, prediction=Eps(), seed=0)
    with pytest.raises(UsageError, match="gives no slope"):
        limit_exponent(path=VP(), prediction=Eps(), span=(1e-3, 1e-4), seed=0)
