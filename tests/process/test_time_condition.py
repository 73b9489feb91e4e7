"""Time conditions: what sharing keeps and gives up, and the singularity that it is for."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from suffuse.base.errors import UsageError
from suffuse.models.exact import ExactMixture
from suffuse.process import (
    EDM,
    VP,
    ConstantTime,
    Eps,
    Flow,
    Identity,
    LogSigma,
    PathPart,
    PredictionPart,
    Remap,
    SharedTimesteps,
    TimeConditionPart,
    TrigonometricPath,
    UniformIndices,
    V,
    eps_of,
    perturb,
)
from suffuse.process.compose import check_process

Times = Callable[..., Tensor]
TABLE = VP(steps=1000)
INDEX = torch.arange(1000, dtype=torch.float64)


def refusal(check: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        check()
    return str(caught.value)


def test_sharing_is_that_of_the_paper() -> None:
    told = SharedTimesteps().told(INDEX, TABLE)
    assert torch.equal(told[100:], INDEX[100:])
    assert torch.equal(told[:100], (INDEX[:100] / 20).floor() * 20)
    assert told[:100].unique().tolist() == [0, 20, 40, 60, 80]


@pytest.mark.parametrize(
    "time",
    [
        SharedTimesteps(),
        SharedTimesteps(below=37, intervals=7),
        SharedTimesteps(below=100, intervals=1),
        SharedTimesteps(below=200, intervals=6, power=2.0),
    ],
    ids=lambda time: f"{time.below}-{time.intervals}",
)
def test_sharing_is_a_projection_that_keeps_the_order(time: SharedTimesteps) -> None:
    t = torch.cat([INDEX, torch.linspace(0, 999, 7001, dtype=torch.float64)]).sort().values
    shared = time.shared(t, TABLE)
    assert torch.equal(time.shared(shared, TABLE), shared)
    assert (shared.diff() >= 0).all()
    # The nudge towards an edge that rounding missed is a millionth of an interval.
    assert (shared <= t + 1e-4).all()
    below = time.below or 100
    assert len(shared[t < below - 1e-3].unique()) == time.intervals
    assert torch.equal(shared[t >= below], t[t >= below])


def test_as_many_intervals_as_indices_change_nothing() -> None:
    assert torch.equal(SharedTimesteps(below=100, intervals=100).shared(INDEX, TABLE), INDEX)


def test_edges_of_tables_are_indices() -> None:
    for intervals in range(1, 30):
        shared = SharedTimesteps(below=100, intervals=intervals).shared(INDEX, TABLE)
        assert torch.equal(shared, shared.round())
        assert shared[0] == 0


@pytest.mark.parametrize("unit", [VP(), Flow(), TrigonometricPath()], ids=lambda path: path.kind)
@pytest.mark.parametrize(("below", "intervals"), [(0.1, 5), (0.1, 3), (0.3, 7), (0.07, 10)])
def test_an_edge_reached_in_floating_point_is_the_edge(unit: PathPart, below: float, intervals: int) -> None:
    # 3 * 0.1 / 5, 0.1 / 5 * 3, 0.02 + 0.02 + 0.02, the exact fraction rounded, float32: all are meant to be edge 3.
    time = SharedTimesteps(below=below, intervals=intervals)
    for k in range(intervals):
        width = below / intervals
        ways = [
            k * below / intervals,
            k / intervals * below,
            width * k,
            sum([width] * k),
            below - (intervals - k) * width,
            float(Fraction(below) * k / intervals),
            float(torch.tensor(k * below / intervals, dtype=torch.float32)),
        ]
        shared = time.shared(torch.tensor(ways, dtype=torch.float64), unit)
        assert len(shared.unique()) == 1, f"edge {k}"
        assert shared[0].item() == pytest.approx(k * below / intervals, rel=1e-15)
        inside = torch.tensor([k + 0.01, k + 0.99], dtype=torch.float64) * width
        assert (time.shared(inside, unit) == shared[0]).all()


def test_uneven_division_is_finer_near_data() -> None:
    edges = SharedTimesteps(below=100, intervals=5, power=2.0).shared(INDEX, TABLE)[:100].unique()
    assert edges.tolist() == [0, 4, 16, 36, 64]


def test_default_range_is_a_tenth_of_the_path() -> None:
    for unit, tenth in ((VP(steps=50), 5.0), (Flow(), 0.1), (TrigonometricPath(), math.pi / 20)):
        t = torch.tensor([0.999 * tenth, 1.001 * tenth], dtype=torch.float64)
        shared = SharedTimesteps(intervals=1).shared(t, unit)
        assert shared[0] == 0
        assert shared[1] == t[1]


def test_sharing_has_no_slope_inside_an_interval() -> None:
    t = torch.tensor([3.2, 47.0, 99.5, 250.0], dtype=torch.float64).requires_grad_()
    told = SharedTimesteps().told(t, TABLE)
    (slope,) = torch.autograd.grad(told.sum(), t)
    assert slope.tolist() == [0, 0, 0, 1]


def test_sharing_is_told_in_the_unit_of_its_inner_condition() -> None:
    t = torch.tensor([0.05, 0.5], dtype=torch.float64)
    assert_close(
        SharedTimesteps().told(t, Flow()), torch.tensor([40.0, 500.0], dtype=torch.float64), rtol=1e-12, atol=0
    )
    inner = Remap(by="power", power=0.5)
    shared = SharedTimesteps(then=inner)
    assert_close(shared.told(t, Flow()), inner.told(shared.shared(t, Flow()), Flow()), rtol=0, atol=0)
    assert_close(
        SharedTimesteps(then=LogSigma()).told(INDEX[:100], TABLE),
        -0.25 * TABLE.half_log_snr((INDEX[:100] / 20).floor() * 20),
        rtol=1e-14,
        atol=0,
    )


def test_impossible_sharing_is_refused() -> None:
    assert "time.below is 2000.0, beyond the path's last time 999.0" in refusal(
        lambda: SharedTimesteps(below=2000).check(TABLE)
    )
    message = refusal(lambda: SharedTimesteps(below=10, intervals=20).check(TABLE))
    assert "time.intervals is 20 with power 1.0: 10 indices cannot be divided so; use fewer intervals" in message
    assert "power 3.0" in refusal(lambda: SharedTimesteps(below=100, intervals=10, power=3.0).check(TABLE))
    assert "'below' has no default on path 'edm', whose times are sigmas; set it to a sigma (time.below" in refusal(
        lambda: SharedTimesteps().check(EDM())
    )
    assert "first edge is clean data (log sigma is -inf). Use then: identity or remap" in refusal(
        lambda: SharedTimesteps(then=LogSigma()).check(Flow())
    )
    assert "'identity' has no scale on path 'edm'" in refusal(lambda: SharedTimesteps(below=0.5).check(EDM()))
    SharedTimesteps(then=LogSigma()).check(TABLE)
    SharedTimesteps(below=0.5, then=Identity(scale=10.0)).check(EDM())


def test_identity_tells_indices_as_they_are_and_unit_times_in_thousandths() -> None:
    assert torch.equal(Identity().told(INDEX, TABLE), INDEX)
    for unit in (VP(), Flow(), TrigonometricPath()):
        assert Identity().told(torch.tensor([unit.t_max], dtype=torch.float64), unit).item() == pytest.approx(1000)
    assert Identity(scale=1.0).told(INDEX, Flow()).equal(INDEX)
    message = refusal(lambda: Identity().told(INDEX, EDM()))
    assert (
        "'identity' has no scale on path 'edm', whose times span decades; use 'log_sigma', or set time.scale" in message
    )


def test_log_sigma_is_the_noise_condition_of_edm() -> None:
    sigma = torch.logspace(-3, 2, 40, dtype=torch.float64)
    assert_close(LogSigma().told(sigma, EDM()), sigma.log() / 4, rtol=1e-12, atol=1e-14)


def test_log_sigma_says_the_same_on_every_path(path: PathPart, moderate_times: Times) -> None:
    t = moderate_times(path)
    on_edm = LogSigma().told(EDM().t_of(path.half_log_snr(t)), EDM())
    assert_close(LogSigma().told(t, path), on_edm, rtol=1e-9, atol=1e-12)


def test_constant_time_says_nothing(path: PathPart, times: Times) -> None:
    assert not ConstantTime().told(times(path), path).any()


@pytest.mark.parametrize(
    "remap", [Remap(), Remap(by="power"), Remap(by="power", power=2.0)], ids=["sigma", "root", "2"]
)
def test_remap_runs_over_the_thousand_in_order(path: PathPart, remap: Remap) -> None:
    ends = torch.tensor([path.t_clean, path.t_max], dtype=torch.float64)
    assert_close(remap.told(ends, path), torch.tensor([0.0, 1000.0], dtype=torch.float64), rtol=1e-12, atol=0)
    told = remap.told(torch.linspace(path.t_clean, path.t_max, 500, dtype=torch.float64), path)
    assert (told.diff() >= 0).all()


@pytest.mark.parametrize("remap", [Remap(), Remap(by="power")], ids=["sigma", "root"])
def test_remap_spreads_out_the_singularity(remap: Remap) -> None:
    # d eps / d told = sigma' / told' (-score + ...) is bounded only if told grows as sigma does.
    path, t = VP(), torch.logspace(-8, -3, 25, dtype=torch.float64).requires_grad_()
    (told_slope,) = torch.autograd.grad(remap.told(t, path).sum(), t)
    t = t.detach()
    ratio = path.d_sigma(t) / told_slope
    assert ratio.max() / ratio.min() < 1.5
    assert path.d_sigma(t).max() / path.d_sigma(t).min() > 100, "the true time would see the singularity"


def test_remap_by_sigma_has_the_slope_of_sigma() -> None:
    path, t = VP(), torch.linspace(0.01, 0.99, 30, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(Remap().told(t, path).sum(), t)
    sigma_end = path.sigma(torch.tensor(1.0, dtype=torch.float64))
    assert_close(slope, 1000 * path.d_sigma(t.detach()) / sigma_end, rtol=1e-9, atol=0)


# Expected |change of the optimal network| per index, times T = 1000, at the same x_t, for eight Gaussians on a ring of
# radius 1.4 and deviation 0.3: computed independently of this code, for indices 0, 20, 100, 400.
SINGULARITY: dict[str, tuple[PathPart, PredictionPart, tuple[float, ...]]] = {
    "vp-eps": (VP(steps=1000), Eps(), (16.0, 8.5, 4.3, 1.4)),
    "vp-v": (VP(steps=1000), V(), (15.2, 8.0, 2.6, 0.8)),
    "scaled-eps": (VP(schedule="scaled_linear", steps=1000), Eps(), (38.8, 6.0, 2.8, 1.9)),
    "cosine-eps": (VP(schedule="cosine", steps=1000), Eps(), (9.7, 5.0, 2.2, 2.3)),
    "plain-eps": (VP(schedule="plain_cosine", steps=1000), Eps(), (5.2, 5.1, 2.4, 2.3)),
    "flow-eps": (Flow(), Eps(), (3.4, 3.6, 3.5, 3.4)),
}


def change_per_index(path: PathPart, prediction: PredictionPart, index: int) -> float:
    """K(t, t + 1) T of the exact denoiser, Monte Carlo over 20,000 samples."""
    angles = torch.arange(8, dtype=torch.float64) * math.tau / 8
    means = 1.4 * torch.stack([angles.cos(), angles.sin()], 1)
    mixture = ExactMixture(path, torch.full((8,), 1 / 8), means, torch.full((8,), 0.3))
    generator = torch.Generator().manual_seed(0)
    x0 = means.repeat(2500, 1) + 0.3 * torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    eps = torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    times = [float(i) if path.indices else (i + 1) / 1000 for i in (index, index + 1)]
    x = perturb(path, x0, eps, torch.full((20_000,), times[0], dtype=torch.float64))
    outputs = []
    for t in times:
        level, denoised = path.level(t), mixture.denoise(x, t)
        outputs.append(prediction.target(denoised, eps_of(x, denoised, level), level, 1.0))
    return 1000 * float((outputs[1] - outputs[0]).norm(dim=1).mean())


@pytest.mark.parametrize(("known", "prediction", "expected"), SINGULARITY.values(), ids=list(SINGULARITY))
def test_the_optimal_network_changes_as_computed(
    known: PathPart, prediction: PredictionPart, expected: tuple[float, ...]
) -> None:
    found = [change_per_index(known, prediction, index) for index in (0, 20, 100, 400)]
    assert found == pytest.approx(expected, rel=0.15)


def test_the_singularity_is_that_of_eps_on_schedules_with_noise_at_once() -> None:
    def rise(path: PathPart) -> float:
        return change_per_index(path, Eps(), 0) / change_per_index(path, Eps(), 100)

    assert rise(VP(steps=1000)) > 3
    assert rise(Flow()) < 1.2


@pytest.mark.parametrize("time", [Identity(), SharedTimesteps(), Remap()], ids=lambda time: time.kind)
def test_check_process_passes_what_goes_together(time: TimeConditionPart) -> None:
    check_process(TABLE, Eps(), time, UniformIndices())
    check_process(Flow(), V(), time)


def test_check_process_names_both_parts_and_the_mend() -> None:
    for path in (Flow(), TrigonometricPath(), VP(steps=100, zero_terminal_snr=True)):
        message = refusal(lambda path=path: check_process(path, Eps(), Identity()))
        assert f"prediction 'eps' and path {path.kind!r} do not go together" in message
        assert "use prediction v, x0, flow or edm" in message
    check_process(Flow(t_end=0.999), Eps(), Identity())
    assert "'identity' has no scale" in refusal(lambda: check_process(EDM(), V(), Identity()))
    assert "need a path with a table" in refusal(lambda: check_process(VP(), V(), Identity(), UniformIndices()))
