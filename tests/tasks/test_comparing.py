"""Comparing runs: what is refused before sampling, one ruler but for the axes, and what is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from suffuse.base.errors import RunError, UsageError
from suffuse.data import Dataset
from suffuse.metrics import Fidelity, Pixels
from suffuse.metrics.ruler import AXES
from suffuse.tasks.compare import (
    Compared,
    compare,
    comparison_table,
    contenders,
    front_of,
    read_comparison,
    ruler_words,
    save_comparison,
)
from suffuse.tasks.generate import Generated, generate
from suffuse.tasks.judge import ImageJudge
from suffuse.tasks.runs import OpenRun

MakeRun = Callable[..., OpenRun]
MakePictures = Callable[..., Dataset]
SHAPE = (3, 8, 8)


@pytest.fixture
def compared(make_run: MakeRun, make_pictures: MakePictures) -> Compared:
    """Two runs, each with two solvers at two costs."""
    runs = [make_run("one"), make_run("two", seed=1)]
    judge = ImageJudge(make_pictures(), Pixels(SHAPE), count=100)
    ways = contenders(runs, nfe=(4, 2, 4), solvers=("ddim", "heun"))
    return compare(ways, judge, samples=8, seed=3)


def test_every_way_is_a_point_with_its_counted_cost(compared: Compared) -> None:
    names = [point.name for point in compared.points]
    assert names == [f"{run} {solver}" for run in ("one", "two") for solver in ("ddim", "ddim", "heun", "heun")]
    # Heun takes two evaluations a step and one on the last: 1 and 3 fit into 2 and 4.
    assert [point.nfe for point in compared.points] == [2, 4, 1, 3] * 2
    rulers = [point.quality.ruler for point in compared.points]
    assert all(set(rulers[0].differences(ruler)) <= set(AXES) for ruler in rulers)
    assert all(ruler.nfe == point.nfe for ruler, point in zip(rulers, compared.points, strict=True))
    values = [point.quality.value for point in compared.points]
    assert len(set(values)) == len(values), "other weights, solvers and costs give other samples"


def test_every_run_is_warmed_up_once_before_it_is_timed(
    make_run: MakeRun, make_pictures: MakePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []

    def counted(run: OpenRun, n: int, *more: Any, **options: Any) -> Generated:
        calls.append((run.name, n))
        return generate(run, n, *more, **options)

    monkeypatch.setattr("suffuse.tasks.compare.generate", counted)
    ways = contenders([make_run("one"), make_run("two", seed=1)], nfe=(1, 2))
    compare(ways, ImageJudge(make_pictures(), Pixels(SHAPE), count=100), samples=12)
    assert calls == [("one", 8), ("two", 8), ("one", 12), ("one", 12), ("two", 12), ("two", 12)]


def test_table_shows_points_floor_and_ruler(compared: Compared) -> None:
    table = comparison_table(compared)
    for point in compared.points:
        assert f"| {point.name} | {point.nfe:g} | {point.seconds:.2f} | {point.quality.value:.4g} |" in table
    assert f"| two halves of the real data, half the count | | | {compared.floor:.4g} |" in table
    assert "8 samples of seed 3; features pixels; reference pets, 24 samples" in table
    assert "network in float32; suffuse" in table
    assert "Mind" not in table


def test_numbers_of_different_rulers_are_annotated(compared: Compared) -> None:
    first, *rest = compared.points
    odd = first.quality.replace(ruler=first.quality.ruler.replace(samples=100, reference="other"))
    mixed = replace(compared, points=(first.replace(quality=odd), *rest))
    (words, warning) = ruler_words(mixed)
    assert words.startswith("100 samples")
    assert warning == "Mind: different rulers for pixels: samples (100 | 8), reference (other | " + (
        f"{rest[0].quality.ruler.reference})."
    )
    assert warning in comparison_table(mixed)
    averages = first.quality.replace(ruler=first.quality.ruler.replace(weights="ema_7"))
    named = replace(compared, points=(first.replace(quality=averages), *rest))
    assert len(ruler_words(named)) == 1, "runs name their own averages: that is what is compared"


def test_runs_of_one_name_are_told_apart(make_run: MakeRun) -> None:
    runs = [make_run("a/run"), make_run("b/run")]
    names = {way.name for way in contenders(runs, nfe=(2,), solvers=("ddim",))}
    assert names == {f"{run.folder} ddim" for run in runs}


def test_what_cannot_be_compared_is_refused_before_sampling(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(UsageError, match="nothing to compare"):
        contenders([], nfe=(2,))
    with pytest.raises(UsageError, match="nothing to compare"):
        contenders([run], nfe=())
    with pytest.raises(UsageError, match=r"different shapes.*\[\(1, 8, 8\), \(3, 8, 8\)\]"):
        contenders([run, make_run("grey", shape=(1, 8, 8))], nfe=(2,))
    with pytest.raises(UsageError, match="nfe is 0"):
        contenders([run], nfe=(4, 0))
    with pytest.raises(UsageError, match="solver 'heunn' does not exist; did you mean 'heun'"):
        contenders([run], nfe=(4,), solvers=("ddim", "heunn"))


def test_a_comparison_is_kept_with_its_plot(compared: Compared, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert read_comparison(folder) is None
    save_comparison(compared, folder)
    assert read_comparison(folder) == compared
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_kept_comparison_that_cannot_be_read_is_refused(compared: Compared, tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps({**compared.dump(), "format_version": 2}))
    with pytest.raises(UsageError, match="format_version 2, written by a newer suffuse"):
        read_comparison(tmp_path)
    path.write_text(json.dumps({**compared.dump(), "points": []}))
    with pytest.raises(RunError, match=r"comparison\.json holds no points"):
        read_comparison(tmp_path)


@pytest.fixture
def planned(make_run: MakeRun, make_pictures: MakePictures) -> Compared:
    """A run with and without plans at two costs."""
    ways = contenders(
        [make_run("one")], nfe=(4, 8), solvers=("ddim",), plans=("deepcache", {"kind": "deepcache", "every": 2})
    )
    return compare(ways, ImageJudge(make_pictures(), Pixels(SHAPE), count=100), samples=8, seed=3)


def test_plans_are_held_against_none_and_against_the_full_run(planned: Compared) -> None:
    assert [(p.plan, p.nfe) for p in planned.points] == [
        (plan, nfe) for plan in ("none", "deepcache", "deepcache(every=2)") for nfe in (4, 8)
    ]
    none, full, *rest = planned.points
    assert full.fidelity == Fidelity(psnr=math.inf, ssim=1.0, drift=0.0)
    assert none.macs is not None
    assert full.macs == pytest.approx(2 * none.macs)
    for point, whole in zip(rest, (none, full) * 2, strict=True):
        assert point.macs is not None
        assert point.macs < whole.macs
        assert point.fidelity is not None
        assert 0 < point.fidelity.psnr < math.inf
        assert point.quality.ruler.plan == point.plan


def test_a_comparison_of_plans_is_shown_and_kept(planned: Compared, tmp_path: Path) -> None:
    table = comparison_table(planned)
    head = (
        "| run and solver | plan | NFE | MMACs a sample | seconds | PSNR | SSIM | drift | pixels | best at its time |"
    )
    assert head in table
    assert "without a plan at the largest NFE" in table
    best = front_of(planned, "seconds")
    assert table.count("| yes |") == len(best)
    save_comparison(planned, tmp_path)
    assert read_comparison(tmp_path) == planned


def test_a_plan_that_does_not_fit_is_refused_before_anything_is_sampled(make_run: MakeRun) -> None:
    with pytest.raises(UsageError, match="no tokens that could run alone"):
        contenders([make_run("one")], nfe=(4,), plans=("region_adaptive",))
    with pytest.raises(UsageError, match="deepcash"):
        contenders([make_run("one")], nfe=(4,), plans=("deepcash",))
