"""Noise levels: quantiles invert distribution functions, and draws follow the distributions of scipy.

Draws are fixed by their seeds; bounds are set at about one in a thousand for true random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.process import (
    EDM,
    VP,
    Flow,
    LogitNormal,
    LogNormal,
    NoiseLevelsPart,
    PathPart,
    UniformIndices,
    UniformTimes,
    perturb,
)

KOLMOGOROV = 1.95  # sqrt(n) times the Kolmogorov distance, one in a thousand
CONTINUOUS = [UniformTimes(), LogNormal(), LogNormal(mean=0.4, std=3.0), LogitNormal(), LogitNormal(mean=1.0, std=0.5)]
every_continuous = pytest.mark.parametrize(
    "levels", CONTINUOUS, ids=lambda part: "-".join(map(str, part.dump().values()))
)


def some_draws(n: int, *, step: int = 0, total: int | None = None) -> Draws:
    return Draws(0, torch.arange(n), step=step, total=total or n)


def distance(drawn: Tensor, cdf: Callable[[Any], Any]) -> float:
    """Kolmogorov distance times sqrt(n)."""
    return float(stats.kstest(drawn.numpy(), cdf).statistic) * math.sqrt(len(drawn))


@every_continuous
def test_cdf_inverts_quantile(path: PathPart, levels: NoiseLevelsPart) -> None:
    u = torch.linspace(1e-4, 1 - 1e-4, 999, dtype=torch.float64)
    t = levels.quantile(u, path)
    assert (t.diff() > 0).all()
    assert_close(levels.cdf(t, path), u, rtol=0, atol=1e-9)


@every_continuous
def test_times_stay_inside_the_path(path: PathPart, levels: NoiseLevelsPart) -> None:
    extreme = torch.tensor([1e-12, 1e-6, 1 - 1e-6, 1 - 1e-12], dtype=torch.float64)
    t, (low, high) = levels.quantile(extreme, path), path.domain
    margin = 1e-9 * (min(high, 1e9) - low)  # t_of(lambda(t_max)) may step over by a rounding error
    assert (t >= low - margin).all()
    assert (t <= high + margin).all()
    assert t.isfinite().all()


@every_continuous
def test_cdf_spans_the_domain(path: PathPart, levels: NoiseLevelsPart) -> None:
    ends = torch.tensor(path.domain, dtype=torch.float64)
    if levels.kind != "log_normal":
        ends = torch.tensor([path.t_min, path.t_max], dtype=torch.float64)
    assert_close(levels.cdf(ends, path), torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-12)


def test_log_normal_on_edm_is_that_of_scipy() -> None:
    t = LogNormal(mean=-1.2, std=1.2).draw(some_draws(8000), EDM())
    assert distance(t, stats.lognorm(s=1.2, scale=math.exp(-1.2)).cdf) < KOLMOGOROV
    assert t.max() > 4, "EDM's distribution is not cut at any sigma"


def test_log_normal_elsewhere_is_truncated_to_the_path(path: PathPart) -> None:
    mean, std = -0.4, 2.5
    low, high = (-path.half_log_snr(torch.tensor(path.domain, dtype=torch.float64))).tolist()
    truncated = stats.truncnorm((low - mean) / std, (high - mean) / std, loc=mean, scale=std)
    t = LogNormal(mean=mean, std=std).draw(some_draws(4000), path)
    assert distance(-path.half_log_snr(t), truncated.cdf) < KOLMOGOROV


def test_uniform_times_are_uniform(path: PathPart) -> None:
    t = UniformTimes().draw(some_draws(4000), path)
    assert distance((t - path.t_min) / (path.t_max - path.t_min), stats.uniform.cdf) < KOLMOGOROV


def test_logit_normal_is_that_of_sd3() -> None:
    t = LogitNormal(mean=0.5, std=1.3).draw(some_draws(8000), Flow(t_start=0.0))
    # On the flow path logit t = log(sigma / alpha) = -lambda.
    assert distance(torch.logit(t), stats.norm(0.5, 1.3).cdf) < KOLMOGOROV


def test_indices_come_equally_often(table: PathPart) -> None:
    count = table.indices or 0
    t = UniformIndices().draw(some_draws(20 * count), table)
    assert torch.equal(t, t.floor())
    seen = torch.bincount(t.long(), minlength=count)
    assert len(seen) == count
    assert stats.chisquare(seen.numpy()).pvalue > 1e-3


def test_cdf_of_indices_is_that_of_their_quantile(table: PathPart) -> None:
    u = torch.linspace(1e-6, 1 - 1e-6, 4001, dtype=torch.float64)
    reached = UniformIndices().cdf(UniformIndices().quantile(u, table), table)
    assert (reached >= u).all(), "the least index whose distribution function reaches u"
    assert (reached - 1 / (table.indices or 1) <= u + 1e-12).all()


def test_indices_need_a_table() -> None:
    for check in (
        lambda: UniformIndices().check(VP()),
        lambda: UniformIndices().draw(some_draws(3), Flow()),
    ):
        with pytest.raises(UsageError, match=r"noise levels 'indices' need a path with a table, but '\w+' is contin"):
            check()
    UniformIndices().check(VP(steps=10))


def test_log_normal_outside_the_path_is_refused() -> None:
    with pytest.raises(UsageError, match=r"mean -20\.0 and std 1\.2 fall outside path 'vp' .* move mean nearer"):
        LogNormal(mean=-20).check(VP(steps=1000))
    LogNormal(mean=-20).check(EDM())


@pytest.mark.parametrize("levels", [part.replace(stratified=True) for part in CONTINUOUS], ids=lambda part: part.kind)
def test_stratified_batches_spread_evenly(path: PathPart, levels: NoiseLevelsPart) -> None:
    u = levels.cdf(levels.draw(some_draws(64), path), path).sort().values
    assert_close(u.diff(), torch.full((63,), 1 / 64, dtype=torch.float64), rtol=0, atol=1e-9)


def test_stratification_lowers_the_variance_and_keeps_the_mean() -> None:
    path, plain = VP(steps=1000), UniformTimes()
    x0, eps = torch.ones(64, 1, dtype=torch.float64), torch.zeros(64, 1, dtype=torch.float64)

    def batch_means(levels: NoiseLevelsPart) -> Tensor:
        draws = [levels.draw(some_draws(64, step=step), path) for step in range(300)]
        return torch.stack([perturb(path, x0, eps, t).mean() for t in draws])

    exact = path.alpha(torch.linspace(0, 999, 100_001, dtype=torch.float64)).mean()
    independent, spread = batch_means(plain), batch_means(plain.replace(stratified=True))
    # A monotone function on n even points with a random offset errs evenly within range / n.
    low, high = path.alpha(torch.tensor([999.0, 0.0], dtype=torch.float64)).tolist()
    assert spread.var() == pytest.approx(((high - low) / 64) ** 2 / 12, rel=0.2)
    assert spread.var() < independent.var() / 50
    for means in (independent, spread):
        assert abs(means.mean() - exact) < 3.3 * means.std() / math.sqrt(300)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("levels", [UniformTimes(), LogNormal(stratified=True)], ids=["plain", "stratified"])
def test_ranks_draw_their_part_of_the_global_batch(levels: NoiseLevelsPart, ranks: int) -> None:
    path, whole = VP(steps=1000), some_draws(16, step=5)
    parts = [levels.draw(Draws(0, index, step=5, total=16), path) for index in torch.arange(16).chunk(ranks)]
    assert torch.equal(torch.cat(parts), levels.draw(whole, path))


def test_steps_draw_anew() -> None:
    for levels in (UniformTimes(), UniformTimes(stratified=True)):
        first, second = (levels.draw(some_draws(8, step=step), VP()) for step in (0, 1))
        assert not torch.isclose(first, second).any()
