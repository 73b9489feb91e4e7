"""Grids against printed index lists, the papers' formulas, and every way to ask for one that does not exist."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import Part, parse
from suffuse.process import EDM, VP, Flow, PathPart
from suffuse.sampling import (
    AlignYourSteps,
    BetaLaw,
    Grid,
    GridPart,
    Karras,
    ListedTimes,
    LogSNR,
    Quadratic,
    Shifted,
    Uniform,
)

TABLE = VP(steps=1000)


def _rho(path: PathPart, times: tuple[float, ...]) -> Tensor:
    return (-path.half_log_snr(torch.tensor(times, dtype=torch.float64))).exp()


@pytest.mark.parametrize(
    ("spacing", "offset", "indices"),
    [
        ("leading", 0, (900, 800, 700, 600, 500, 400, 300, 200, 100, 0)),
        ("leading", 1, (901, 801, 701, 601, 501, 401, 301, 201, 101, 1)),
        ("linspace", 0, (999, 888, 777, 666, 555, 444, 333, 222, 111, 0)),
        ("trailing", 0, (999, 899, 799, 699, 599, 499, 399, 299, 199, 99)),
        ("trailing", 0, (999, 856, 713, 570, 428, 285, 142)),
    ],
)
def test_printed_indices(spacing: str, offset: int, indices: tuple[int, ...]) -> None:
    grid = parse(Uniform, {"steps": len(indices), "spacing": spacing, "offset": offset})
    assert grid.times(TABLE) == (*indices, -1)


def test_evenly_spaced_times_on_a_continuous_path() -> None:
    assert Uniform(steps=4).times(Flow()) == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert Uniform(steps=3, spacing="linspace").times(Flow(t_start=0.2)) == pytest.approx((1.0, 0.6, 0.2, 0.0))
    assert Uniform(steps=4, end="t_min").times(Flow(t_start=0.1)) == (1.0, 0.75, 0.5, 0.25, 0.1)


def test_quadratic_is_ddims() -> None:
    # linspace(0, sqrt(800), 10)**2 = 800 (i / 9)**2, cut to whole indices.
    assert Quadratic(steps=10).times(TABLE) == (800, 632, 483, 355, 246, 158, 88, 39, 9, 0, -1)
    assert Quadratic(steps=3, share=0.25).times(Flow(t_start=0.01)) == pytest.approx((0.25, 0.09, 0.01, 0.0))


def test_karras_is_edms_formula() -> None:
    # The list that the EDM paper's sampler runs through with 18 steps, to the digits that its users print.
    printed = (80.0, 57.586, 40.786, 28.375, 19.353, 12.910, 8.401, 5.315, 3.257, 1.923, 1.088, 0.5853, 0.2964, 0.1395)
    times = Karras(steps=18).times(EDM())
    assert times[:14] == pytest.approx(printed, rel=3e-4)
    assert times[17:] == (pytest.approx(0.002), 0.0)
    for path in (VP(), TABLE):
        times = Karras(steps=7, rho=3, sigma_min=0.05, sigma_max=12).times(path)
        cubes = [(12 ** (1 / 3) + i / 6 * (0.05 ** (1 / 3) - 12 ** (1 / 3))) ** 3 for i in range(7)]
        assert _rho(path, times[:-1]).tolist() == pytest.approx(cubes, rel=1e-9)


@pytest.mark.parametrize("bounded", [EDM(), VP(), TABLE, Flow(t_end=0.99)], ids=["edm", "vp", "table", "flow"])
def test_log_snr_is_even(bounded: PathPart) -> None:
    for end, steps in (("clean", 12), ("t_min", 13)):
        lam = -_rho(bounded, LogSNR(steps=12, end=end).times(bounded)[:steps]).log()
        # t_of and half_log_snr are inverse to rounding, which the smallest sigma of a path magnifies.
        torch.testing.assert_close(lam.diff(), lam.diff().mean().expand(steps - 1), rtol=1e-6, atol=0)
        ends = bounded.half_log_snr(torch.tensor([bounded.t_max, bounded.t_min], dtype=torch.float64))
        torch.testing.assert_close(lam[[0, -1]], ends, rtol=1e-6, atol=0)


@pytest.mark.parametrize("grid", [Karras, LogSNR])
def test_ramps_end_at_the_end(grid: type[GridPart]) -> None:
    whole = grid(steps=9).times(EDM())
    shortened = grid(steps=8, end="t_min").times(EDM())
    assert shortened == pytest.approx(whole[:-1], rel=1e-9), "the last node is the end, and not a step of no width"
    given = parse(grid, {"steps": 8, "end": "t_min", "sigma_min": 0.1}).times(EDM())
    assert given[-2:] == (pytest.approx(0.1), 0.002), "a sigma_min of one's own is a node"


def test_one_step_starts_at_the_noise() -> None:
    for path in (EDM(), VP(), TABLE, Flow(t_end=0.99)):
        for part in get_args(Grid)[1].parts.values():
            if part not in (ListedTimes, AlignYourSteps):  # which start where they are told to
                start = min(0.8 * (path.indices or path.t_max), path.t_max) if part is Quadratic else path.t_max
                assert part(steps=1).times(path) == (pytest.approx(start), path.t_clean)


def test_every_grid_survives_json_and_falls_to_its_end() -> None:
    path = VP(schedule="scaled_linear", steps=1000)
    for part in get_args(Grid)[1].parts.values():
        grid = part(listed=(900.0, 20.5)) if part is ListedTimes else part(steps=13)
        times = grid.times(path)
        assert len(times) == grid.steps + 1
        assert times[-1] == -1
        assert parse(part, grid.dump()) == grid == parse(part, grid)


def test_listed_times_count_themselves() -> None:
    grid = ListedTimes(listed=(9.0, 5.0, 2.5))
    assert grid.steps == 3
    assert grid.times(TABLE) == (9.0, 5.0, 2.5, -1.0)


def _fails(grid: GridPart, path: PathPart, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grid.times(path)


def test_grids_that_do_not_exist_say_why() -> None:
    _fails(Uniform(spacing="leading"), Flow(), r"'leading' and offsets .* path 'flow' is continuous; use spacing trai")
    _fails(Uniform(offset=1), VP(), r"offsets count the indices of a table, but path 'vp' is continuous")
    _fails(Uniform(steps=1001), TABLE, r"grid.steps is 1001, but the path has only 1000 indices; use at most 1000")
    _fails(Uniform(steps=1000, spacing="leading", offset=1), TABLE, r"grid.offset 1 leads to index 1000, past .* 999")
    _fails(Quadratic(steps=500), TABLE, r"'quadratic' with 500 steps does not fall from \d+ to \d+ .*use .*fewer steps")
    _fails(Uniform(spacing="linspace", end="t_min"), TABLE, r"does not fall from 0 to 0 on path 'vp'; .*end: clean")
    _fails(LogSNR(sigma_min=0.002, end="t_min"), EDM(), r"does not fall from 0.002 to 0.002 on path 'edm'")
    _fails(ListedTimes(listed=(3.0, 5.0)), TABLE, r"'list' with 2 steps does not fall from 3 to 5 .*use falling times")
    _fails(ListedTimes(listed=(math.nan, 5.0)), TABLE, r"does not fall from nan to 5")
    _fails(ListedTimes(listed=(999.0, 5.0)), Flow(), r"grid.listed has the time 999, past the last one of path 'flow'")
    for grid in (Karras(), LogSNR()):
        _fails(grid, Flow(), rf"grid '{grid.kind}' needs a finite range .* path 'flow' .* inf; set grid.sigma_min and")
        _fails(grid, Flow(t_start=0, t_end=0.9), r"needs a finite range of noise, .* from sigma/alpha 0 to 9")
        _fails(grid.replace(sigma_min=9, sigma_max=2), EDM(), r"sigma_min is 9, not below grid.sigma_max \(2\); swap")
        _fails(grid.replace(sigma_max=1e4), VP(), r"0.00\d* to 10000 leaves the path 'vp', .* from 1e-05 to 1; narrow")
        _fails(grid.replace(sigma_min=1e-5), TABLE, r"1e-05 to 157\S* leaves the path 'vp', .* from 0 to 999")


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        (Uniform, {"steps": 0}, r"Uniform: steps: .* greater than or equal to 1 \(got 0\)"),
        (Uniform, {"spacing": "trailling"}, r"spacing: Input should be 'trailing', 'leading' or 'linspace'"),
        (Karras, {"rho": 0}, r"Karras: rho: .* greater than 0 \(got 0\)"),
        (ListedTimes, {"listed": [9, 5], "steps": 3}, r"steps is 3, but `listed` has 2 times; leave steps out"),
        (ListedTimes, {"listed": []}, r"listed: .* at least 1 item"),
        (ListedTimes, {"listed": 5}, r"ListedTimes: listed: .*valid tuple \(got 5\)"),
        (ListedTimes, {}, r"ListedTimes: listed: Field required"),
    ],
)
def test_wrong_fields_are_named(part: type[Part], fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(part, fields)


def test_shifted_is_sd3s_formula_on_the_flow_path_and_the_same_levels_elsewhere() -> None:
    times = torch.tensor(Shifted(steps=8, shift=3.0).times(Flow()), dtype=torch.float64)
    even = torch.linspace(1, 0, 9, dtype=torch.float64)
    torch.testing.assert_close(times, 3 * even / (1 + 2 * even), rtol=1e-12, atol=1e-12)
    for path in (VP(), TABLE):
        shifted = _rho(path, Shifted(steps=6).times(path)[:-1])
        assert shifted[0].item() == pytest.approx(_rho(path, (path.t_max,)).item())
        before = path.t_of((3 / shifted).log())  # a third of each level: even times
        assert before.diff().tolist() == pytest.approx([float(before.diff().mean())] * 5, rel=1e-5)
    assert Shifted(steps=5, shift=1.0).times(Flow()) == pytest.approx(Uniform(steps=5).times(Flow()))


def test_align_your_steps_is_the_printed_table() -> None:
    path = VP(schedule="scaled_linear", steps=1000)
    # The indices that were printed with the levels of Stable Diffusion 1.5.
    printed = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24)
    assert AlignYourSteps().times(path)[:-1] == pytest.approx(printed, abs=1.5)
    video = _rho(EDM(sigma_max=800.0), AlignYourSteps(model="svd").times(EDM(sigma_max=800.0))[:-1])
    assert video.tolist() == pytest.approx((700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034))
    more = _rho(path, AlignYourSteps(steps=20).times(path)[:-1])
    few = _rho(path, AlignYourSteps().times(path)[:-1])
    torch.testing.assert_close(more[::2], few)
    next_ones = torch.cat([few[1:], torch.tensor([0.029], dtype=few.dtype)])  # the table's last, for clean data
    torch.testing.assert_close(more[1::2], (next_ones * few).sqrt(), rtol=1e-3, atol=0)
    last = [_rho(path, AlignYourSteps(steps=n).times(path)[:-1])[-1].item() for n in (10, 20, 40, 80)]
    assert last == sorted(last, reverse=True), "more steps go nearer to clean data"
    assert last[-1] == pytest.approx(0.029, rel=0.25)
    with pytest.raises(UsageError, match=r"asks for sigma/alpha from 0\.034 to 700"):
        AlignYourSteps(model="svd").times(path)


def test_the_beta_law_is_dense_at_both_ends() -> None:
    found = _rho(EDM(), BetaLaw(steps=21).times(EDM())[:-1])
    assert found[0].item() == pytest.approx(80.0)
    assert found[-1].item() == pytest.approx(0.002)
    gaps = -found.diff()
    assert gaps[10] > 3 * gaps[0]
    assert gaps[10] > 3 * gaps[-1]
    torch.testing.assert_close(found + found.flip(0), torch.full_like(found, 80.002), rtol=1e-9, atol=1e-9)
    with pytest.raises(UsageError, match="needs a finite range of noise"):
        BetaLaw().times(Flow())
