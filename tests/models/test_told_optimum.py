"""The best network that is told only so much: equal to the exact one where nothing is shared, best where it is."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.data import GaussianMixture, LowRankMixture
from suffuse.models.exact import ExactMixture, ExactModel
from suffuse.models.exact_low_rank import ExactLowRank
from suffuse.models.told_optimum import PluggedIn, ToldOptimum, exact_output
from suffuse.process import (
    VP,
    X0,
    ConstantTime,
    EDMPrediction,
    Eps,
    FlowVelocity,
    Identity,
    LogSigma,
    PredictionPart,
    Remap,
    Score,
    SharedTimesteps,
    TimeConditionPart,
    V,
    perturb,
)
from suffuse.sampling import DDIM, DPMSolverPP, Heun, LogSNR, SolverPart, Uniform, sample

PATH = VP(steps=1000)
DATA = LowRankMixture(ambient=8, rank=3)
EXACT = ExactLowRank(PATH, *DATA.parameters())
PREDICTIONS = [Eps(), V(), X0(), FlowVelocity(), Score()]
each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: p.kind)


def _pairs(t: Tensor, data: LowRankMixture = DATA) -> tuple[Tensor, Tensor]:
    """Noisy points at times and their noise."""
    eps = Draws(0, torch.arange(len(t))).normal("eps", (data.ambient,)).double()
    return perturb(PATH, data.sample(len(t), 1).double(), eps, t), eps


@each_prediction
@pytest.mark.parametrize(
    "time", [Identity(), Remap(), LogSigma(), SharedTimesteps(intervals=100)], ids=lambda p: p.kind
)
def test_told_everything_it_is_the_exact_model(prediction: PredictionPart, time: TimeConditionPart) -> None:
    told = ToldOptimum(EXACT, prediction=prediction, time=time)
    t = torch.tensor([0, 1, 19, 20, 57, 99, 100, 640, 999], dtype=torch.float64)
    x, _ = _pairs(t)
    torch.testing.assert_close(told.denoise(x, t), EXACT.denoise(x, t), rtol=1e-12, atol=1e-12)
    assert told.alike(57.0).tolist() == [57]


def test_times_between_indices_that_nothing_is_told_like_are_exact() -> None:
    told = ToldOptimum(EXACT, prediction=Eps(), time=Identity())
    x, _ = _pairs(torch.full((4,), 33.0, dtype=torch.float64))
    assert told.alike(33.25).tolist() == []
    torch.testing.assert_close(told.denoise(x, 33.25), EXACT.denoise(x, 33.25), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("then", [Identity(), Remap(), LogSigma()], ids=lambda p: p.kind)
def test_alike_are_the_indices_of_a_sub_interval(then: TimeConditionPart) -> None:
    told = ToldOptimum(EXACT, prediction=Eps(), time=SharedTimesteps(then=then))
    assert told.alike(0.0).tolist() == list(range(20))
    for t in (40.0, 47.0, 59.0, 59.7):
        assert told.alike(t).tolist() == list(range(40, 60))
    assert told.alike(100.0).tolist() == [100]
    assert len(ToldOptimum(EXACT, prediction=Eps(), time=ConstantTime()).alike(500.0)) == 1000


@each_prediction
def test_output_is_the_mean_over_the_times_left_open(prediction: PredictionPart) -> None:
    """Against the plain double loop, and the same for one time, a time for each sample, and true times within."""
    told = ToldOptimum(EXACT, prediction=prediction, time=SharedTimesteps())
    x, _ = _pairs(torch.tensor([20.0, 27.0, 39.0, 31.0], dtype=torch.float64))
    density = torch.stack([EXACT.log_prob(x, float(u)) for u in range(20, 40)]).exp()
    outputs = torch.stack([exact_output(EXACT, prediction, x, float(u)) for u in range(20, 40)])
    mean = (density[..., None] * outputs).sum(0) / density.sum(0)[:, None]
    torch.testing.assert_close(told.output(x, 33.0), mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(told.output(x, 21.5), told.output(x, 33.0), rtol=0, atol=0)
    t = torch.tensor([20.0, 85.0, 39.0, 800.0])
    alone = [told.denoise(x[k : k + 1], value) for k, value in enumerate(t.tolist())]
    torch.testing.assert_close(told.denoise(x, t), torch.cat(alone), rtol=1e-11, atol=1e-11)


def test_conditions_travel_with_their_samples() -> None:
    model = ExactMixture(PATH, *GaussianMixture().parameters())
    told = ToldOptimum(model, prediction=V(), time=SharedTimesteps())
    x, t = Draws(0, torch.arange(6)).normal("x", (2,)).double(), torch.tensor([5.0, 90.0, 300.0, 11.0, 95.0, 2.0])
    cond = Conditions.of(label=torch.arange(6))
    alone = [told.denoise(x[k : k + 1], float(t[k]), cond[k : k + 1]) for k in range(6)]
    torch.testing.assert_close(told.denoise(x, t, cond), torch.cat(alone), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("prediction", [Eps(), V(), X0()], ids=lambda p: p.kind)
def test_it_is_best_among_networks_that_are_told_the_same(prediction: PredictionPart) -> None:
    """Errors are orthogonal to what such networks can add, and so every change of them costs."""
    shared = SharedTimesteps(intervals=2)
    t = (torch.arange(20_000) % 100).double()
    x, eps = _pairs(t)
    target = prediction.target(DATA.sample(len(t), 1).double(), eps, PATH.level(t, x), 0.5)
    told = ToldOptimum(EXACT, prediction=prediction, time=shared).output(x, t)
    exact = exact_output(EXACT, prediction, x, t)

    def product(a: Tensor, b: Tensor) -> tuple[float, float]:
        """Mean inner product and four standard errors."""
        each = (a * b).sum(1)
        return each.mean().item(), 4 * each.std().item() / len(each) ** 0.5

    # Pythagoras: |told - target|**2 = |told - exact|**2 + |exact - target|**2 in expectation.
    mean, margin = product(told - exact, exact - target)
    assert abs(mean) < margin
    # Functions of x and the shared time: orthogonal to the error of the best of them, but not to that of the plugged.
    edge = shared.shared(t, PATH)[:, None]
    for change in (told, x, x * x.norm(dim=1, keepdim=True), x * edge / 50):
        mean, margin = product(told - target, change)
        assert abs(mean) < margin

    def loss(output: Tensor) -> float:
        return (output - target).square().mean().item()

    least = loss(told)
    assert loss(exact) < least  # it is told more
    assert least < loss(0.95 * told)
    assert least < loss(1.05 * told)
    if prediction.kind != "x0":  # of x0 a wrong time near clean data changes little
        assert 1.5 * least < loss(PluggedIn(EXACT, prediction=prediction, time=shared).output(x, t))


def test_plugged_in_is_exact_at_the_edges_and_wrong_within() -> None:
    plugged = PluggedIn(EXACT, prediction=Eps(), time=SharedTimesteps())
    t = torch.tensor([0.0, 20.0, 80.0, 500.0])
    x, _ = _pairs(t.double())
    torch.testing.assert_close(plugged.denoise(x, t), EXACT.denoise(x, t), rtol=1e-12, atol=1e-12)
    wrong = plugged.output(x, 19.0) - exact_output(EXACT, Eps(), x, 0.0)
    assert torch.equal(wrong, torch.zeros_like(wrong))


@pytest.mark.parametrize("solver", [DDIM(), DPMSolverPP(), Heun()], ids=lambda s: s.kind)
def test_every_solver_samples_it(solver: SolverPart) -> None:
    told = ToldOptimum(EXACT, prediction=Eps(), time=SharedTimesteps())
    for grid in (Uniform(steps=12), LogSNR(steps=12)):  # the latter's times lie between the indices
        drawn = sample(told, 200, shape=(8,), solver=solver, grid=grid, batch=200)
        assert drawn.x.isfinite().all()
        assert 0.2 < drawn.x.square().sum(1).mean().item() / 3 < 1.5  # |x0|**2 is 3 on average


def test_an_evaluation_of_an_image_sized_mixture_takes_no_minutes() -> None:
    data = LowRankMixture(ambient=784, rank=20)
    told = ToldOptimum(
        ExactLowRank(PATH, *data.parameters()), prediction=Eps(), time=SharedTimesteps(below=100, intervals=1)
    )
    x, _ = _pairs((torch.arange(2000) % 100).double(), data)
    began = time.perf_counter()
    told.denoise(x, 50.0)
    assert time.perf_counter() - began < 5  # about 0.2


def test_what_does_not_go_together_is_refused() -> None:
    continuous: ExactModel = ExactLowRank(VP(), *DATA.parameters())
    with pytest.raises(UsageError, match="no training indices"):
        ToldOptimum(continuous, prediction=Eps(), time=Identity())
    with pytest.raises(UsageError, match="scales the network's input"):
        ToldOptimum(EXACT, prediction=EDMPrediction(), time=Identity())
    zero = ExactLowRank(VP(steps=1000, zero_terminal_snr=True), *DATA.parameters())
    with pytest.raises(UsageError, match="do not go together"):
        PluggedIn(zero, prediction=Eps(), time=SharedTimesteps())
