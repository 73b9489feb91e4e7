"""Denoising: the loss by hand, what it must not depend on, and where its minimum is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.part import Joint
from suffuse.base.randomness import Draws
from suffuse.data import GaussianMixture
from suffuse.models.conditioner import ClassLabel
from suffuse.models.denoiser import Denoiser, Evaluation
from suffuse.models.exact import ExactMixture
from suffuse.networks import MLP
from suffuse.networks.contract import Network, Output
from suffuse.objectives import Denoising, Progress, denoising_loss
from suffuse.process import (
    EDM,
    P2,
    VP,
    BoundedSNR,
    EDMWeighting,
    Eps,
    EpsWeighting,
    Flow,
    FlowVelocity,
    Identity,
    LogSigma,
    MinSNR,
    PathPart,
    Prediction,
    PredictionPart,
    SigmoidWeighting,
    TruncatedSNR,
    UniformIndices,
    UniformTimes,
    V,
    VWeighting,
    Weighting,
    WeightingPart,
    X0Weighting,
    perturb,
)

START = Progress(step=0, total=10)
PREDICTIONS = tuple(part() for part in get_args(Prediction)[1].parts.values())
TABLE: Joint = get_args(Weighting)[1]
PATHS = (VP(schedule="linear", steps=1000), EDM(), Flow(t_start=0.01, t_end=0.99))

# Each paper's weight on |D - x0|**2, from SNR = alpha**2 / sigma**2.
BY_HAND = {
    EpsWeighting(): lambda snr: snr,
    X0Weighting(): lambda snr: snr**0,
    VWeighting(): lambda snr: snr + 1,
    TruncatedSNR(): lambda snr: snr.clamp_min(1),
    MinSNR(gamma=5.0): lambda snr: snr.clamp_max(5),
    BoundedSNR(): lambda snr: snr / (1 + 2 * snr),
    P2(k=1.0, gamma=0.5): lambda snr: snr / (1 + snr) ** 0.5,
    SigmoidWeighting(bias=2.0): lambda snr: snr / (1 + snr * torch.tensor(-2.0).exp()),
    EDMWeighting(sigma_data=0.5): lambda snr: snr + 4,
}


class Linear(Network):
    """F = a x + b told, elementwise, in the dtype of x; keeps what it was given."""

    cond_width = 3

    def __init__(self, a: float = 0.3, b: float = 1e-3) -> None:
        super().__init__()
        self.widths, self.graph = {}, {"output": ()}
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(
        self,
        x: Tensor,
        told: Tensor,
        cond: Embedding | None = None,
        *,
        seeds: Tensor | None = None,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
    ) -> Output:
        self.seen = {"seeds": seeds, "cond": cond}
        return Output(self.a * x + self.b * told.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1)))


def denoiser(path: PathPart, prediction: PredictionPart, network: Network | None = None) -> Denoiser:
    time = LogSigma() if isinstance(path, EDM) else Identity()  # EDM's times span decades
    return Denoiser(network or Linear(), path=path, prediction=prediction, time=time)


def batch_of(n: int, shape: tuple[int, ...] = (2, 3, 3), dtype: torch.dtype = torch.float32) -> Batch:
    return Batch(x0=Draws(7, torch.arange(n)).normal("data", shape).to(dtype) * 0.5)


def draws_of(n: int, step: int = 0) -> Draws:
    return Draws(3, torch.arange(n), step=step, total=n)


def test_the_hand_formulas_cover_the_table() -> None:
    assert {"plain", *(part.kind for part in BY_HAND)} == set(TABLE.parts)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.kind)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda part: part.kind)
@pytest.mark.parametrize("weighting", [None, *BY_HAND], ids=lambda part: part.kind if part else "plain")
def test_the_loss_is_the_hand_formula(
    path: PathPart, prediction: PredictionPart, weighting: WeightingPart | None
) -> None:
    """In float64, so that only the float32 in which the error is squared is left: 1e-6 relative."""
    model = denoiser(path, prediction)
    objective = Denoising(weighting=weighting) if weighting else Denoising()
    batch, draws = batch_of(6, dtype=torch.float64), draws_of(6)
    found = objective.build(model)(model, batch, START, draws)["denoising"]

    x0 = batch.x0
    assert x0 is not None
    eps = draws.normal("eps", (2, 3, 3)).double()
    t = (path.t_min + draws.uniform("times") * (path.t_max - path.t_min)).reshape(-1, 1, 1, 1)
    x = path.alpha(t) * x0 + path.sigma(t) * eps
    c_in = prediction.c_in(path.alpha(t), path.sigma(t), 0.5)
    told = model.told(t.flatten(), 6).double().reshape_as(t)
    raw = model.network.a.double() * c_in * x + model.network.b.double() * told
    if weighting is None:  # the network's own target counts equally
        target = prediction.target(x0, eps, path.level(t.flatten(), x0), 0.5)
        expected = (raw - target) ** 2
    else:
        c_skip, c_out = prediction.output(path.alpha(t), path.sigma(t), 0.5)
        snr = path.alpha(t) ** 2 / path.sigma(t) ** 2
        expected = BY_HAND[weighting](snr) * (c_skip * x + c_out * raw - x0) ** 2
    torch.testing.assert_close(found.double(), expected.flatten(1).mean(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("path", "prediction", "target"),
    [
        (VP(steps=1000), Eps(), lambda x0, eps, alpha, sigma: eps),
        (VP(steps=1000), V(), lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0),
        (Flow(), FlowVelocity(), lambda x0, eps, alpha, sigma: eps - x0),
    ],
    ids=["eps", "v", "flow"],
)
def test_plain_is_the_papers_simple_loss(path: PathPart, prediction: PredictionPart, target) -> None:  # type: ignore[no-untyped-def]
    """|F - target|**2 with the targets written out; float32 loses 1e-7 * c_out**-1 near clean data, here up to 1e-3."""
    model = denoiser(path, prediction)
    batch, draws = batch_of(16), draws_of(16)
    found = Denoising().build(model)(model, batch, START, draws)["denoising"]
    assert batch.x0 is not None
    eps, t = draws.normal("eps", (2, 3, 3)), UniformTimes().draw(draws, path)
    level = path.level(t, batch.x0)
    raw = model.network(level.alpha * batch.x0 + level.sigma * eps, model.told(t, 16)).value
    expected = ((raw - target(batch.x0, eps, level.alpha, level.sigma)) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def _mlp(dropout: float = 0.3) -> Denoiser:
    network = MLP(width=8, depth=1, frequencies=4, dropout=dropout, zero_init=False).build((2,), seed=0)
    return Denoiser(network, path=VP(steps=1000), prediction=Eps(), conditioner=ClassLabel(classes=3).build(8)).train()


def _labelled(n: int) -> Batch:
    return dataclasses.replace(batch_of(n, (2,)), cond=Conditions.of(label=torch.arange(n) % 3))


@pytest.mark.parametrize("stratified", [False, True])
def test_a_samples_loss_does_not_depend_on_its_batch(stratified: bool) -> None:
    """Its noise, time, dropout and hidden condition are bit-equal; matrix products of other sizes may round, 1e-6."""
    model = _mlp()
    objective = Denoising(condition_dropout=0.5, noise_levels=UniformTimes(stratified=stratified)).build(model)
    batch, draws = _labelled(12), draws_of(12)
    whole = objective(model, batch, START, draws)["denoising"]
    for rows in (slice(0, 4), slice(4, 12), slice(7, 8)):
        part = objective(model, batch[rows], START, draws[rows])["denoising"]
        torch.testing.assert_close(part, whole[rows], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stratified", [False, True])
def test_the_loss_of_a_sample_alone_is_bit_equal(stratified: bool) -> None:
    """Without matrix products nothing is left that may round: any change of a sample's randomness would show."""
    model = denoiser(VP(steps=1000), Eps())
    objective = Denoising(noise_levels=UniformTimes(stratified=stratified)).build(model)
    batch, draws = batch_of(8), draws_of(8)
    whole = objective(model, batch, START, draws)["denoising"]
    alone = [objective(model, batch[i : i + 1], START, draws[i : i + 1])["denoising"] for i in range(8)]
    assert torch.equal(torch.cat(alone), whole)
    two_processes = [objective(model, batch[rows], START, draws[rows]) for rows in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat([losses["denoising"] for losses in two_processes]), whole)


def test_draws_differ_from_step_to_step_and_repeat_at_the_same() -> None:
    model = denoiser(VP(steps=1000), Eps())
    objective = Denoising().build(model)
    losses = [objective(model, batch_of(4), START, draws_of(4, step))["denoising"] for step in (5, 5, 6)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.isclose(losses[0], losses[2]).any()


def test_the_network_gets_one_seed_a_sample() -> None:
    model, draws = denoiser(VP(steps=1000), Eps()), draws_of(4)
    Denoising().build(model)(model, batch_of(4), START, draws)
    assert torch.equal(model.network.seen["seeds"], draws.keys("network"))


# Masks


def _evaluation(batch: Batch, draws: Draws) -> Evaluation:
    assert batch.x0 is not None
    path = VP(steps=1000)
    t = UniformTimes().draw(draws, path)
    return denoiser(path, Eps()).evaluate(perturb(path, batch.x0, draws.normal("eps", (2, 3, 3)), t), t, None)


def test_a_mask_averages_over_what_counts() -> None:
    """Per sample another number of pixels counts; channels share a mask of one channel."""
    batch, draws = batch_of(3), draws_of(3)
    evaluation = _evaluation(batch, draws)
    assert batch.x0 is not None
    mask = torch.zeros(3, 1, 3, 3)
    mask[0, 0, 0, 0] = mask[1, 0, :2] = 1
    mask[2] = 1
    found = denoising_loss(evaluation, batch.x0, X0Weighting(), mask)
    error = (evaluation.denoised - batch.x0) ** 2
    expected = torch.stack([error[0, :, 0, 0].mean(), error[1, :, :2].mean(), error[2].mean()])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_a_mask_of_ones_is_no_mask_and_a_faint_one_the_same_mean() -> None:
    batch, draws = batch_of(3), draws_of(3)
    evaluation = _evaluation(batch, draws)
    assert batch.x0 is not None
    plain = denoising_loss(evaluation, batch.x0, EpsWeighting())
    for value in (1.0, 1e-3):  # shares need not sum to one or more
        mask = torch.full((3, 2, 3, 3), value)
        torch.testing.assert_close(denoising_loss(evaluation, batch.x0, EpsWeighting(), mask), plain)
    boolean = torch.ones(3, 2, 3, 3, dtype=torch.bool)
    torch.testing.assert_close(denoising_loss(evaluation, batch.x0, EpsWeighting(), boolean), plain)


def test_a_sample_of_which_nothing_counts_has_no_loss_and_no_gradient() -> None:
    batch, draws = batch_of(2), draws_of(2)
    model = denoiser(VP(steps=1000), Eps())
    mask = torch.zeros(2, 1, 3, 3)
    mask[1] = 1
    masked = dataclasses.replace(batch, mask=mask)
    losses = Denoising().build(model)(model, masked, START, draws)["denoising"]
    assert losses[0] == 0
    assert losses[1] > 0
    (gradient,) = torch.autograd.grad(losses[0], model.network.a)
    assert gradient == 0


# Conditions


def _present(rate: float, n: int, step: int = 0) -> Tensor:
    """Which labels the conditioner sees."""
    model = _mlp()
    seen: list[Conditions] = []
    model.conditioner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    Denoising(condition_dropout=rate).build(model)(model, _labelled(n), START, draws_of(n, step))
    return seen[0].present["label"]


def test_conditions_are_hidden_at_their_rate() -> None:
    """20,000 draws of probability 0.1: four standard deviations are 0.0085."""
    hidden = ~_present(0.1, 20_000)
    assert abs(hidden.double().mean().item() - 0.1) < 4 * (0.1 * 0.9 / 20_000) ** 0.5
    assert _present(0.0, 100).all()
    assert not _present(1.0, 100).any()


def test_hidden_conditions_are_a_function_of_the_step() -> None:
    first, again, next_step = _present(0.5, 64), _present(0.5, 64), _present(0.5, 64, step=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, next_step)


def test_absent_conditions_stay_absent() -> None:
    model, batch = _mlp(), _labelled(4)
    absent = dataclasses.replace(batch, cond=batch.cond.absent())
    losses = [
        Denoising(condition_dropout=rate).build(model)(model, absent, START, draws_of(4))["denoising"]
        for rate in (0.0, 0.5, 1.0)
    ]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


# What is handed in, and what is refused


def test_noise_that_a_coupling_paired_is_used() -> None:
    """With the data's own negative as noise and F = eps, the loss is zero only if that noise made x_t."""
    path, batch, draws = Flow(t_end=0.99), batch_of(4), draws_of(4)
    assert batch.x0 is not None
    eps = Draws(99, torch.arange(4)).normal("other", (2, 3, 3))
    t = UniformTimes().draw(draws, path)
    model = denoiser(path, Eps())
    found = Denoising().build(model)(model, dataclasses.replace(batch, eps=eps), START, draws)["denoising"]
    evaluation = model.evaluate(perturb(path, batch.x0, eps, t), t)
    expected = ((evaluation.raw - eps) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert not torch.isclose(found, Denoising().build(model)(model, batch, START, draws)["denoising"]).any()


def test_a_batch_without_data_is_refused() -> None:
    model = denoiser(VP(steps=1000), Eps())
    with pytest.raises(UsageError, match="objective 'denoising' needs data, but the batch has no x0"):
        Denoising().build(model)(model, Batch(), START, draws_of(2))


def test_noise_levels_that_the_path_lacks_are_refused_when_built() -> None:
    with pytest.raises(UsageError, match="noise levels 'indices' need a path with a table, but 'flow' is continuous"):
        Denoising(noise_levels=UniformIndices()).build(denoiser(Flow(t_end=0.99), V()))


# The gradient and the minimum


def test_the_gradient_is_the_derivative_of_the_mean_loss() -> None:
    """Central differences in float64 of an exactly quadratic loss: 1e-4 for the error that is squared in float32."""
    batch, draws, values = batch_of(8, dtype=torch.float64), draws_of(8), []

    def mean_loss(model: Denoiser) -> Tensor:
        return Denoising().build(model)(model, batch, START, draws)["denoising"].mean()

    model = denoiser(VP(steps=1000), V())
    mean_loss(model).backward()
    for a in (0.2, 0.4):
        values.append(mean_loss(denoiser(VP(steps=1000), V(), Linear(a=a))).item())
    assert model.network.a.grad is not None
    assert model.network.a.grad.item() == pytest.approx((values[1] - values[0]) / 0.2, rel=1e-4)


class _Exact(Network):
    """The network whose estimate is the posterior mean of a mixture, scaled and shifted."""

    cond_width = 0

    def __init__(self, mixture: ExactMixture, path: PathPart, scale: float, shift: float) -> None:
        super().__init__()
        self.widths, self.graph = {}, {"output": ()}
        self.mixture, self.path, self.scale, self.shift = mixture, path, scale, shift
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        x: Tensor,
        told: Tensor,
        cond: Embedding | None = None,
        *,
        seeds: Tensor | None = None,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
    ) -> Output:
        return Output(self.scale * self.mixture.denoise(x, told.double()) + self.shift)


@pytest.mark.parametrize("weighting", [X0Weighting(), MinSNR(), EpsWeighting()], ids=lambda part: part.kind)
def test_the_minimum_is_the_posterior_mean(weighting: WeightingPart) -> None:
    """The excess loss of D + shift is shift**2 times the mean weight, since the cross term's expectation vanishes.

    Both losses see the same 20,000 draws: the cross term's mean is the only noise, within four standard errors.
    """
    path, density = VP(steps=1000), GaussianMixture.ring(4)
    mixture, n = ExactMixture(path, *density.parameters()), 20_000
    batch, draws = Batch(x0=density.sample(n, seed=1)), draws_of(n)
    prediction = next(part for part in PREDICTIONS if part.kind == "x0")
    objective = Denoising(weighting=weighting, noise_levels=UniformTimes(stratified=True))

    def losses(scale: float, shift: float) -> Tensor:
        # Told the time itself: the identity's scale on tables is 1.
        model = Denoiser(_Exact(mixture, path, scale, shift), path=path, prediction=prediction)
        return objective.build(model)(model, batch, START, draws)["denoising"].detach().double()

    best = losses(1.0, 0.0)
    t = UniformTimes(stratified=True).draw(draws, path)
    weights = weighting.of(path.half_log_snr(t), torch.ones_like(t))
    for shift in (-0.1, 0.1):
        excess = losses(1.0, shift) - best
        cross = excess - shift**2 * weights
        assert abs(cross.mean()) < 4 * cross.std() / n**0.5
        assert excess.mean() > 0
    for scale in (0.9, 1.1):
        assert (losses(scale, 0.0) - best).mean() > 0
