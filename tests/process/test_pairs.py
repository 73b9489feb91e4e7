"""Pairs of noise levels: curricula, grids, their laws, and the gap that shrinks."""

from __future__ import annotations

import math

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.process import (
    EDM,
    VP,
    Flow,
    GapPairs,
    GridPairs,
    LogNormal,
    PathPart,
    TrigonometricPath,
    sigma_over_alpha,
    time_at,
)
from suffuse.process.curriculum import Doubling, Fixed, SquareRoot

PATHS: tuple[PathPart, ...] = (EDM(), VP(), VP(steps=1000), Flow(t_start=0.002), TrigonometricPath(t_start=0.002))


def _draws(n: int, step: int = 0) -> Draws:
    return Draws(0, torch.arange(n), step=step, total=n)


def test_doubling_has_eight_equal_stages() -> None:
    curriculum, total = Doubling(), 400_000
    counts = [curriculum.intervals(k, total) for k in (0, 49_999, 50_000, 399_999)]
    assert curriculum.stages == 8
    assert counts == [10, 10, 20, 1280]


@pytest.mark.parametrize(("s0", "s1", "stages"), [(10, 160, 5), (10, 640, 7), (10, 15, 2), (10, 150, 5), (3, 24, 4)])
def test_doubling_stages(s0: int, s1: int, stages: int) -> None:
    curriculum = Doubling(s0=s0, s1=s1)
    assert curriculum.stages == stages
    seen = {curriculum.intervals(k, 1000) for k in range(1000)}
    assert len(seen) == stages
    assert max(seen) == s1
    assert sum(curriculum.intervals(k, 1003) == s1 for k in range(1003)) >= 1003 // stages


def test_square_root_has_the_paper_s_points() -> None:
    curriculum = SquareRoot(s0=2, s1=150)
    assert [curriculum.intervals(k, 1000) + 1 for k in (0, 500, 1000)] == [2, 107, 151]


def test_a_curriculum_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"8 stages.*only 5 steps"):
        Doubling().check(5)
    with pytest.raises(UsageError, match=r"1280 intervals.*only 100 steps"):
        Doubling().check(100)
    with pytest.raises(UsageError, match=r"training\.steps"):
        GridPairs(curriculum=Fixed(count=40)).check(EDM(), 20)


def test_the_grid_is_karras_with_exact_ends() -> None:
    t, r = GridPairs().grid(EDM(), 17)
    i = torch.arange(18, dtype=torch.float64) / 17
    expected = (0.002 ** (1 / 7) + i * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    assert torch.allclose(t, expected, rtol=1e-12)
    assert t[0] == 0.002
    assert t[-1] == 80.0
    assert r.diff().sum().item() == pytest.approx(80 - 0.002, rel=1e-9)


@pytest.mark.parametrize("on", PATHS, ids=repr)
def test_grids_rise_on_every_path(on: PathPart) -> None:
    t, r = GridPairs().grid(on, 160)
    assert bool((t.diff() > 0).all())
    assert bool((r.diff() > 0).all())
    assert bool(r.isfinite().all())
    assert t[-1] == on.t_max


def test_the_law_of_intervals_is_the_truncated_normal() -> None:
    from scipy.stats import norm

    pairs = GridPairs(levels=LogNormal(mean=-1.1, std=2.0))
    t, _ = pairs.grid(EDM(), 1280)
    p = pairs.probabilities(EDM(), 1280)
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    cdf = torch.as_tensor(norm.cdf((t.log().numpy() + 1.1) / 2.0))
    expected = (cdf.diff() / (cdf[-1] - cdf[0])).cumsum(0)
    assert (p.cumsum(0) - expected).abs().max() < 1e-9


def test_intervals_are_drawn_by_their_law() -> None:
    pairs = GridPairs(curriculum=Fixed(count=10))
    drawn = pairs.draw(_draws(200_000), EDM(), 0, 100)
    share = torch.bincount(drawn.rank - 1, minlength=10) / 200_000  # type: ignore[operator]  # there is a grid
    assert (share - pairs.probabilities(EDM(), 10)).abs().max() < 5e-3


def test_pairs_are_neighbours_and_depend_on_the_step_alone() -> None:
    pairs = GridPairs(curriculum=Doubling(s0=4, s1=16), levels=None)
    pair = pairs.draw(_draws(64, 7), EDM(), 7, 30)
    t, r = pairs.grid(EDM(), 4)
    assert pair.intervals == 4
    assert torch.equal(pair.t, t[pair.rank])
    assert torch.equal(pair.s, t[pair.rank - 1])  # type: ignore[operator]  # there is a grid
    assert torch.equal(pair.gap, r[pair.rank] - r[pair.rank - 1])  # type: ignore[operator]  # as above
    again = pairs.draw(_draws(64, 7)[16:32], EDM(), 7, 30)
    assert torch.equal(again.t, pair.t[16:32])


def test_the_gap_starts_at_denoising_and_shrinks() -> None:
    pairs, r = GapPairs(), torch.logspace(-3, 2, 200, dtype=torch.float64)
    first, last = pairs.cleaner(r, 0, 800), pairs.cleaner(r, 799, 800)
    assert first[0] == 0
    expected = r * (1 - 2.0**-8 * (1 + 8 * torch.sigmoid(-r)))
    assert torch.allclose(last, expected.clamp_min(0))
    assert bool((first <= last).all())
    assert bool((last < r).all())


def test_clean_data_stand_for_a_gap_as_wide_as_the_noise() -> None:
    pair = GapPairs(q=2.0).draw(_draws(256), EDM(), 0, 100)
    assert bool((pair.s[pair.r_s == 0] == 0).all())
    assert bool((pair.r_s == 0).any())
    assert bool((pair.gap > 0).all())


@pytest.mark.parametrize("on", PATHS, ids=repr)
def test_times_of_sigma_over_alpha(on: PathPart) -> None:
    r = torch.tensor([0.01, 0.3, 2.0, 50.0], dtype=torch.float64)
    back = torch.tensor([sigma_over_alpha(on, float(value)) for value in time_at(on, r)])
    inside = r > sigma_over_alpha(on, on.t_min)
    assert torch.allclose(back[inside], r[inside].float(), rtol=1e-5)


def test_a_path_without_noise_at_its_least_time_has_no_grid() -> None:
    with pytest.raises(UsageError, match="raise its least time"):
        GridPairs().check(Flow(t_start=0.0), 10_000)


def test_flow_paths_end_at_the_prior() -> None:
    pairs = GridPairs(curriculum=Fixed(count=8))
    t, r = pairs.grid(Flow(t_start=0.002), 8)
    assert t[-1] == 1.0
    assert r[-1].item() == pytest.approx(80.0)
    assert math.isinf(sigma_over_alpha(Flow(), 1.0))
