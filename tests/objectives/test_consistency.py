"""Consistency objectives: what the pairs are, exact solutions, presets on one code path, targets and teachers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.config import ModelConfig
from suffuse.models.exact import ExactMixture
from suffuse.models.flow_map import FlowMap
from suffuse.networks import MLP
from suffuse.objectives import Consistency, Denoising, Progress, denoising_loss
from suffuse.objectives.consistency import ConsistencyLoss, LowNoiseDenoising, Truncation
from suffuse.objectives.frozen import FrozenRun, denoise_elsewhere
from suffuse.objectives.pair_metric import L2, Cauchy, PseudoHuber
from suffuse.objectives.targets import AveragedWeights
from suffuse.objectives.teacher import TeacherStep
from suffuse.process import (
    EDM,
    VP,
    X0,
    ConsistencyPrediction,
    EDMPrediction,
    EDMWeighting,
    Flow,
    GapPairs,
    GridPairs,
    Identity,
    LogNormal,
    LogSigma,
    LogStudentT,
    Pair,
    PathPart,
    PredictionPart,
    UniformTimes,
    perturb,
)
from suffuse.process.curriculum import Doubling, Fixed

PROGRESS = Progress(step=3, total=2000)


def _model(
    objective: Consistency,
    path: PathPart | None = None,
    prediction: PredictionPart | None = None,
    *,
    dropout: float = 0.0,
    seed: int = 0,
) -> FlowMap:
    path = path or EDM()
    config = ModelConfig(
        network=MLP(width=32, depth=2, zero_init=False, dropout=dropout),
        shape=(2,),
        path=path,
        prediction=prediction or ConsistencyPrediction(),
        time=LogSigma() if path.told_scale is None else Identity(),
        flow_map=objective.flow_map(),
    )
    model = config.build(seed=seed)
    assert isinstance(model, FlowMap)
    return model


def _draws(n: int = 64, step: int = 3) -> Draws:
    return Draws(0, torch.arange(n), step=step, total=n)


def _batch(n: int = 64) -> Batch:
    return Batch(x0=0.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(1)))


def _loss(objective: Consistency, model: FlowMap, progress: Progress = PROGRESS) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = objective.build(model)(model, _batch(), progress, _draws())
    return losses


def test_the_loss_by_hand() -> None:
    objective = Consistency(metric=PseudoHuber(c=0.1))
    model, draws = _model(objective), _draws()
    pair = objective.pairs.draw(draws, model.path, PROGRESS.step, PROGRESS.total)
    x0, eps = _batch().x0, draws.normal("eps", (2,))
    assert x0 is not None
    mine = model.denoise(x0 + pair.t.float()[:, None] * eps, pair.t)
    target = model.denoise(x0 + pair.s.float()[:, None] * eps, pair.s)
    expected = ((mine - target).square().sum(1) + 0.01).sqrt() - 0.1
    found = _loss(objective, model)["consistency"]
    assert torch.allclose(found, expected / (pair.t - pair.s).float(), rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_noisier_point_alone() -> None:
    objective = Consistency(metric=L2())
    model, draws = _model(objective), _draws()
    pair = objective.pairs.draw(draws, model.path, PROGRESS.step, PROGRESS.total)
    x0, eps = _batch().x0, draws.normal("eps", (2,))
    assert x0 is not None
    with torch.no_grad():
        target = model.denoise(x0 + pair.s.float()[:, None] * eps, pair.s)
    mine = model.denoise(x0 + pair.t.float()[:, None] * eps, pair.t)
    ((mine - target).square().mean(1) / (pair.t - pair.s).float()).mean().backward()
    by_hand = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    _loss(objective, model)["consistency"].mean().backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) == len(by_hand)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(found, by_hand, strict=True))


@pytest.mark.parametrize("path", [EDM(), Flow(t_start=0.002), VP()], ids=repr)
@pytest.mark.parametrize("step", [0, 900, 1999])
def test_a_single_point_of_data_has_an_exact_map(path: PathPart, step: int) -> None:
    """f(x, t) = xi + (x - alpha xi) r_min / sigma is what a network that always says xi gives: no loss at any pair."""
    objective, xi = Consistency(pairs=GridPairs(curriculum=Doubling(s1=160))), torch.tensor([0.3, -0.2])
    model = _model(objective, path, X0())
    assert isinstance(model.network.output, nn.Module)
    with torch.no_grad():
        for name, p in model.network.output.named_parameters():
            p.copy_(xi if name == "linear.bias" else torch.zeros_like(p))
    batch = Batch(x0=xi.expand(64, 2))
    losses = objective.build(model)(model, batch, Progress(step, 2000), _draws())
    assert losses["consistency"].max().item() < 1e-5 / 0.001  # weights are up to 1 / gap


def test_the_pair_is_an_euler_step_with_the_score_of_one_sample() -> None:
    """Source: song2023consistency, Section 5."""
    x0, eps = _batch(8).x0, torch.randn(8, 2, generator=torch.Generator().manual_seed(2))
    assert x0 is not None
    t, s = 1.3, 0.9
    x_t = x0 + t * eps
    score = -(x_t - x0) / t**2
    assert torch.allclose(x_t + (s - t) * (-t * score), x0 + s * eps, atol=1e-6)


def test_both_evaluations_share_their_dropout() -> None:
    objective = Consistency(pairs=GapPairs(q=1e12, stages=1), end="clean", weighting="one", metric=L2())
    model = _model(objective, prediction=EDMPrediction(), dropout=0.5).train()
    assert _loss(objective, model)["consistency"].max().item() < 1e-8


def test_a_gap_down_to_clean_data_is_denoising() -> None:
    objective = Consistency(
        pairs=GapPairs(q=1 + 1e-9, k=1e9), end="clean", metric=L2(reduce="mean"), weighting="inverse_c_out"
    )
    model, draws, batch = _model(objective, prediction=EDMPrediction()), _draws(), _batch()
    assert batch.x0 is not None
    t = objective.pairs.draw(draws, model.path, 0, 100).t
    x = perturb(model.path, batch.x0, draws.normal("eps", (2,)), t)
    expected = denoising_loss(model.evaluate(x, t), batch.x0, EDMWeighting())
    assert torch.allclose(_loss(objective, model)["consistency"], expected, rtol=1e-5)


def test_with_its_switches_off_slct_is_ict_to_the_bit() -> None:
    pairs = GridPairs(curriculum=Doubling(s1=1280))
    ict = Consistency(pairs=pairs)
    slct = Consistency(
        pairs=pairs,
        metric=Cauchy(c="grid", reduce="mean"),
        low_noise=LowNoiseDenoising(strength=5.0),
    )
    off = slct.replace(metric=PseudoHuber(), low_noise=slct.low_noise.replace(strength=0.0) if slct.low_noise else None)
    model = _model(ict)
    expected, found = _loss(ict, model), _loss(off, model)
    assert torch.equal(expected["consistency"], found["consistency"])
    assert torch.equal(found["low_noise"], torch.zeros(64))
    assert _loss(slct, model)["low_noise"].max() > 0


def test_low_noise_denoising_covers_the_cleanest_quarter() -> None:
    anchor = LowNoiseDenoising(strength=2.0, share=0.25)
    rank = torch.tensor([1, 2, 3, 4, 10])
    r = torch.tensor([0.01, 0.1, 0.5, 1.0, 80.0], dtype=torch.float64)
    pair = Pair(r, r / 2, r, r / 2, intervals=10, rank=rank)
    mine, x0 = torch.ones(5, 2, requires_grad=True), torch.zeros(5, 2)
    loss = anchor.of(mine, x0, pair, sigma_data=0.5, probability=0.4)
    assert torch.equal(loss[2:], torch.zeros(3))  # 0.25 of 11 points: ranks 1 and 2
    expected = 2.0 * (1 / r[:2] ** 2 + 4).float()
    assert torch.allclose(loss.mean(), expected.mean())
    nobody = Pair(r, r / 2, r, r / 2, intervals=10, rank=torch.full((5,), 9))
    anchor.of(mine, x0, nobody, sigma_data=0.5, probability=0.4).mean().backward()
    assert mine.grad is not None
    assert torch.equal(mine.grad, torch.zeros(5, 2))


def test_an_anchor_without_a_grid_is_refused() -> None:
    with pytest.raises(UsageError, match="have none; use pairs=grid"):
        Consistency(pairs=GapPairs(), low_noise=LowNoiseDenoising()).check(EDM(), 1000)


def test_averaged_targets_follow_the_paper_s_schedule() -> None:
    target = AveragedWeights(mu0=0.9, s0=2)
    assert target.rate(1) == pytest.approx(0.9)
    assert target.rate(150) == pytest.approx(0.9 ** (2 / 151))
    objective = Consistency(target=target, pairs=GridPairs(curriculum=Fixed(count=1)))
    model = _model(objective)
    live = objective.build(model)
    assert isinstance(live, ConsistencyLoss)
    before = [p.clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    live.after_step(model, PROGRESS)
    assert live.averaged is not None
    for old, kept in zip(before, live.averaged.parameters(), strict=True):
        assert torch.allclose(kept, old + 0.1, atol=1e-6)
        assert not kept.requires_grad


def test_a_denoiser_is_not_trained_by_consistency() -> None:
    config = ModelConfig(
        network=MLP(width=16, depth=1), shape=(2,), path=EDM(), prediction=EDMPrediction(), time=LogSigma()
    )
    with pytest.raises(UsageError, match="flow_map"):
        Consistency().build(config.build())
    assert Denoising().flow_map() is None


def _gaussian_residual(solver: str, gap: float) -> float:
    """|f(x_t, t) - f(x_s, s)| of the exact map of a normal law, x_s by one step of its exact denoiser."""
    path, std, t = EDM(), 0.5, 1.0
    exact = ExactMixture(path, weights=torch.ones(1), means=torch.zeros(1, 1), stds=torch.full((1,), std))
    r = torch.full((16,), t, dtype=torch.float64)
    pair = Pair(r, r - gap, r, r - gap)
    x = torch.randn(16, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = TeacherStep(run="exact", solver=solver)  # type: ignore[arg-type]  # a literal
    x_s = step.step(exact, path, x, pair, Batch().cond)  # type: ignore[arg-type]  # it has what a teacher is asked for

    def f(x: Tensor, r: Tensor) -> Tensor:
        return x * ((std**2 + 0.002**2) / (std**2 + r[:, None] ** 2)) ** 0.5

    return (f(x, pair.t) - f(x_s, pair.s)).abs().max().item()


@pytest.mark.parametrize(("solver", "order"), [("euler", 2), ("heun", 3)])
def test_a_teacher_s_step_has_the_order_of_its_solver(solver: str, order: int) -> None:
    coarse, fine = _gaussian_residual(solver, 0.1), _gaussian_residual(solver, 0.05)
    assert coarse / fine == pytest.approx(2**order, rel=0.15)


def test_a_teacher_of_another_path_is_asked_at_the_same_noise() -> None:
    weights, means, stds = torch.ones(2) / 2, torch.tensor([[0.5], [-0.5]]), torch.full((2,), 0.2)
    vp, edm = (ExactMixture(path, weights=weights, means=means, stds=stds) for path in (VP(), EDM()))
    x, t = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None], torch.linspace(0.1, 5, 8, dtype=torch.float64)
    found = denoise_elsewhere(vp, EDM(), x, t)  # type: ignore[arg-type]  # it has what a teacher is asked for
    assert torch.allclose(found, edm.denoise(x, t), atol=1e-6)


def test_distillation_asks_a_saved_teacher(tmp_path: Path) -> None:
    config = ModelConfig(
        network=MLP(width=16, depth=1, zero_init=False),
        shape=(2,),
        path=EDM(),
        prediction=EDMPrediction(),
        time=LogSigma(),
    )
    config.build(seed=5).save_pretrained(tmp_path)
    objective = Consistency(
        teacher=TeacherStep(run=str(tmp_path)),
        pairs=GridPairs(curriculum=Fixed(count=18), levels=None),
        weighting="one",
    )
    model = _model(objective)
    live = objective.build(model)
    assert isinstance(live, ConsistencyLoss)
    assert not list(live.parameters())  # frozen: neither trained nor saved with the objective
    losses = live(model, _batch(), PROGRESS, _draws())
    losses["consistency"].mean().backward()
    assert bool(losses["consistency"].isfinite().all())
    other = config.replace(shape=(3,)).build()
    other.save_pretrained(tmp_path / "three")
    with pytest.raises(UsageError, match=r"shape \(3,\).*\(2,\)"):
        Consistency(teacher=TeacherStep(run=str(tmp_path / "three"))).build(model)
    assert FrozenRun(run="x").weights is None


@pytest.mark.parametrize(
    "objective",
    [
        Consistency(),
        Consistency(pairs=GapPairs(), end="clean"),
        Consistency(metric=Cauchy(c="grid")),
        Consistency(low_noise=LowNoiseDenoising()),
    ],
    ids=["grid", "gap", "Cauchy", "low noise"],
)
def test_a_sample_s_loss_does_not_depend_on_the_batch(objective: Consistency) -> None:
    """So that processes, accumulated parts and resumes see the same losses."""
    model = _model(objective, prediction=None if objective.end == "t_min" else EDMPrediction(), dropout=0.2)
    live, batch, draws = objective.build(model), _batch(), _draws()
    whole = live(model, batch, PROGRESS, draws)
    rows = (slice(0, 16), slice(16, 40), slice(40, 63), slice(63, 64))
    parts = [live(model, batch[part], PROGRESS, draws[part]) for part in rows]
    for name, value in whole.items():
        assert torch.allclose(torch.cat([part[name] for part in parts]), value, rtol=1e-3, atol=1e-4)


def test_a_truncated_batch_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    """A micro-batch of one, too, which may hold a boundary sample or none."""
    plain = Consistency(pairs=GapPairs(), end="clean")
    _model(plain, prediction=EDMPrediction()).save_pretrained(tmp_path)
    levels = LogStudentT(low=1.0, high=80.0)
    objective = Consistency(
        pairs=GapPairs(levels=levels), end="clean", truncation=Truncation(run=str(tmp_path), split=1.0, share=0.25)
    )
    model = _model(objective, prediction=EDMPrediction(), seed=1)
    live, batch, draws = objective.build(model), _batch(), _draws()
    whole = live(model, batch, PROGRESS, draws)
    assert int((whole["boundary"] != 0).sum()) <= 16  # floor(64 / 4), less those without a difference
    assert whole["boundary"].sum().item() > 0
    parts = [live(model, batch[i : i + 1], PROGRESS, draws[i : i + 1]) for i in range(64)]
    for name, value in whole.items():
        assert torch.allclose(torch.cat([part[name] for part in parts]), value, rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match="draws lower ones too"):
        objective.replace(pairs=GapPairs()).check(EDM(), 1000)
    with pytest.raises(UsageError, match="with the same end"):
        objective.replace(end="t_min").build(_model(objective.replace(end="t_min"), prediction=EDMPrediction()))


@pytest.mark.parametrize("path", [VP(), EDM(sigma_max=160.0), Flow(t_start=0.002), EDM()], ids=repr)
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_teacher_s_step_from_the_top_of_a_grid_keeps_the_law(path: PathPart, solver: str) -> None:
    """From the law at the prior to that at the next grid point, whatever the prior's sigma / alpha."""
    std = 0.5
    exact = ExactMixture(path, torch.ones(1), torch.zeros(1, 1), torch.full((1,), std))
    t, r = GridPairs().grid(path, 400)
    pair = Pair(t[-1:], t[-2:-1], r[-1:], r[-2:-1])
    spread = [float((path.alpha(v) ** 2 * std**2 + path.sigma(v) ** 2).sqrt()) for v in (pair.t, pair.s)]
    x = torch.tensor([[spread[0]]], dtype=torch.float64)
    step = TeacherStep(run="exact", solver=solver)  # type: ignore[arg-type]  # a literal
    x_s = step.step(exact, path, x, pair, Batch().cond)  # type: ignore[arg-type]  # what a teacher is asked for
    assert x_s.item() == pytest.approx(spread[1], rel=2e-3)


@pytest.mark.parametrize("theirs", [VP(), EDM(), Flow(), VP(zero_terminal_snr=True)], ids=repr)
@pytest.mark.parametrize("ours", [VP(), EDM(), Flow(), VP(zero_terminal_snr=True), EDM(sigma_max=500.0)], ids=repr)
def test_a_teacher_elsewhere_is_asked_what_it_knows(ours: PathPart, theirs: PathPart) -> None:
    """From pure noise to nearly clean data; far beyond its own range it still answers the data's mean."""
    weights, means, stds = torch.ones(2) / 2, torch.tensor([[0.5], [-0.3]]), torch.full((2,), 0.2)
    teacher, exact = (ExactMixture(path, weights=weights, means=means, stds=stds) for path in (theirs, ours))
    t = ours.t_min + torch.linspace(0.01, 1, 9, dtype=torch.float64) * (ours.t_max - ours.t_min)
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None] * ours.sigma(t)[:, None].clamp_min(0.3)
    found = denoise_elsewhere(teacher, ours, x, t)  # type: ignore[arg-type]  # what a teacher is asked for
    assert bool(found.isfinite().all())
    assert torch.allclose(found, exact.denoise(x, t), atol=5e-3)


def test_settings_without_effect_are_refused() -> None:
    gap = Consistency(pairs=GapPairs(), end="clean")
    for objective, message in (
        (gap.replace(metric=Cauchy(c="grid")), "have no grid; use a number"),
        (gap.replace(target=AveragedWeights()), r"set target\.s0=null"),
    ):
        with pytest.raises(UsageError, match=message):
            objective.check(EDM(), 1000)
    with pytest.raises(UsageError, match=r"set pairs\.stratified"):
        GridPairs().replace(levels=LogNormal(stratified=True))
    with pytest.raises(UsageError, match="c must be above 0"):
        Cauchy().replace(c=0.0)


def test_gaps_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match=r"reach clean data, beyond the end t_min of the map; set objective.end=clean"):
        Consistency(pairs=GapPairs()).check(EDM(), 100)
    beyond = GapPairs(levels=UniformTimes(beyond=0.08))
    with pytest.raises(UsageError, match="draw the end of path 'flow', where it is infinite"):
        beyond.check(Flow(), 100)
    GapPairs(levels=UniformTimes()).check(Flow(), 100)
