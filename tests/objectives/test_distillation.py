"""BOOT, progressive distillation and sample matching: exact teachers, gradients through samplers, and their limits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.metrics.kernel import unbiased_mmd2
from suffuse.models.conditioner import ClassLabel
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.exact import ExactMixture
from suffuse.models.flow_map import FlowMap
from suffuse.models.low_resolution import LowResolution
from suffuse.networks import MLP, UNet
from suffuse.objectives import Bootstrap, ObjectivePart, Progress, Progressive, SampleMatching
from suffuse.objectives.progressive import ProgressiveLoss
from suffuse.objectives.sample_matching import (
    CubicKernel,
    GaussianKernels,
    LinearKernel,
    RandomConvolutions,
    differentiable_sample,
)
from suffuse.objectives.teacher import TeacherStep
from suffuse.process import EDM, VP, EDMPrediction, Flow, Identity, LogSigma, Pair, PathPart, V, transfer
from suffuse.sampling import DDIM, Uniform, sample

PROGRESS = Progress(step=0, total=100)


def _draws(n: int = 32) -> Draws:
    return Draws(0, torch.arange(n), step=1, total=n)


def _model(objective: ObjectivePart | None = None, path: PathPart | None = None, **network: object) -> Denoiser:
    config = ModelConfig(
        network=MLP(width=16, depth=1, zero_init=False, **network),  # type: ignore[arg-type]  # fields by name
        shape=(2,),
        path=path or VP(schedule="cosine"),
        prediction=V(),
        flow_map=None if objective is None else objective.flow_map(),
    )
    return config.build(seed=3)


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    """A saved denoiser."""
    _model().save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


# BOOT


def test_bootstrapping_looks_at_no_data(teacher: str) -> None:
    objective = Bootstrap(teacher=TeacherStep(run=teacher, solver="euler"))
    model = _model(objective)
    live = objective.build(model)
    with_data = live(model, Batch(x0=torch.full((32, 2), 7.0)), PROGRESS, _draws())
    without = live(model, Batch(), PROGRESS, _draws())
    assert set(without) == {"bootstrap", "boundary"}
    assert all(torch.equal(with_data[name], without[name]) for name in without)


def test_the_teacher_gets_no_gradient_and_is_not_saved(teacher: str) -> None:
    objective = Bootstrap(teacher=TeacherStep(run=teacher))
    model = _model(objective)
    live = objective.build(model)
    assert isinstance(live, nn.Module)
    sum(value.mean() for value in live(model, Batch(), PROGRESS, _draws()).values()).backward()  # type: ignore[union-attr]  # tensors
    assert not live.state_dict()
    assert any(p.grad is not None for p in model.parameters())


def test_the_signal_s_step_is_ddim_s() -> None:
    """alpha_s y_s + sigma_s eps with y_s = y + k (x0 - y) is DDIM from x_t to x_s."""
    for path in (VP(schedule="cosine"), VP(), Flow()):
        t, s = 0.7, 0.6
        here, there = path.level(t), path.level(s)
        y, eps, x0 = (torch.randn(8, 2, generator=torch.Generator().manual_seed(i)).double() for i in range(3))
        k = 1 - here.alpha * there.sigma / (here.sigma * there.alpha)
        assert 0 < k < 1
        moved = there.alpha * (y + k * (x0 - y)) + there.sigma * eps
        assert torch.allclose(transfer(here.alpha * y + here.sigma * eps, x0, here, there), moved, atol=1e-12)


@pytest.mark.parametrize(("solver", "order"), [("euler", 2), ("heun", 3)])
def test_the_exact_signal_nearly_solves_the_bootstrap(solver: str, order: int) -> None:
    """For a normal law the exact x_s and the teacher's step from the exact x_t differ by the solver's own error."""
    path, std = VP(schedule="cosine"), 0.5
    exact = ExactMixture(path, torch.ones(1), torch.zeros(1, 1), torch.full((1,), std))

    def error(delta: float) -> float:
        t = torch.full((16,), 0.6, dtype=torch.float64)
        s = t - delta
        spread = [(path.alpha(v) ** 2 * std**2 + path.sigma(v) ** 2).sqrt()[:, None] for v in (t, s)]
        z = torch.randn(16, 1, generator=torch.Generator().manual_seed(0)).double()
        pair = Pair(t, s, path.sigma(t) / path.alpha(t), path.sigma(s) / path.alpha(s))
        step = TeacherStep(run="exact", solver=solver)  # type: ignore[arg-type]  # a literal
        x_s = step.step(exact, path, spread[0] * z, pair, Batch().cond)  # type: ignore[arg-type]  # what a teacher is asked for
        return (x_s - spread[1] * z).abs().max().item()

    assert error(0.04) / error(0.02) == pytest.approx(2**order, rel=0.15)


def test_bootstrapping_refuses_times_that_span_decades(teacher: str) -> None:
    with pytest.raises(UsageError, match="use path vp or flow"):
        Bootstrap(teacher=TeacherStep(run=teacher)).check(EDM(), 100)
    with pytest.raises(UsageError, match="told its target"):
        Bootstrap(teacher=TeacherStep(run=teacher)).build(_model())


# Progressive distillation


def test_steps_are_halved() -> None:
    objective = Progressive(first=16, last=1)
    assert objective.stages == 5
    assert [objective.steps_at(k, 100) for k in (0, 19, 20, 45, 99)] == [16, 16, 8, 4, 1]
    with pytest.raises(UsageError, match="power of two"):
        Progressive(first=12, last=5).check(VP(), 100)
    with pytest.raises(UsageError, match="5 stages, but the run has only 3 steps"):
        objective.check(VP(), 3)


def test_a_student_that_lands_where_the_teacher_does_has_no_loss() -> None:
    """On a single point of data every denoiser that answers it is its own two-step student."""
    objective = Progressive(first=4, last=1)
    model = _model()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    live = objective.build(model)
    target = live(model, Batch(x0=torch.zeros(32, 2)), PROGRESS, _draws())["progressive"]
    # F = 0 with v-prediction is D = alpha x: two such steps are not one, so there is something to learn.
    assert target.max() > 1e-6
    exact = ExactMixture(model.path, torch.ones(1), torch.full((1, 2), 0.3), torch.zeros(1))
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).double()
    levels = [model.path.level(t) for t in (0.9, 0.7, 0.5)]
    half = transfer(x, exact.denoise(x, 0.9), levels[0], levels[1])
    end = transfer(half, exact.denoise(half, 0.7), levels[1], levels[2])
    assert torch.allclose(end, transfer(x, exact.denoise(x, 0.9), levels[0], levels[2]), atol=1e-10)


def test_the_student_becomes_the_teacher_at_a_stage_s_end() -> None:
    objective, model = Progressive(first=2, last=1), _model()
    live = objective.build(model)
    assert isinstance(live, ProgressiveLoss)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    for step, same in ((3, False), (4, True)):
        live.after_step(model, Progress(step, 10))
        pairs = zip(live.teacher.parameters(), model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) is same
    assert not any(p.requires_grad for p in live.parameters())


# Sample matching


@pytest.mark.parametrize("kernel", [LinearKernel(), CubicKernel(), GaussianKernels(scales=(0.3, 1.0))], ids=repr)
def test_equal_laws_are_at_distance_zero_in_the_mean(kernel: LinearKernel) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(200, 2, 32, 4, generator=generator).double()
    values = torch.stack([unbiased_mmd2(pair[0], pair[1], kernel.kernel()) for pair in draws])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(200)
    assert (values < 0).any(), "unbiased, so below zero at times"


def test_the_cubic_kernel_is_kid_s() -> None:
    x, y = (torch.randn(6, 5, generator=torch.Generator().manual_seed(i)).double() for i in range(2))
    expected = polynomial_kernel(x.numpy(), y.numpy(), degree=3, gamma=1 / 5, coef0=1)
    assert torch.allclose(CubicKernel().kernel()(x, y), torch.as_tensor(expected), atol=1e-10)


def _start(model: Denoiser, n: int = 4) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_gradients_through_the_sampler_are_those_of_differences() -> None:
    model = _model().double()
    times, noise = Uniform(steps=3).times(model.path), _draws(4)

    def loss() -> Tensor:
        return differentiable_sample(model, _start(model), DDIM(), times, Batch().cond, noise).square().sum()

    value = loss()
    value.backward()
    weight = model.network.output.linear.weight  # type: ignore[union-attr]  # an MLP
    assert isinstance(weight, nn.Parameter)
    assert weight.grad is not None
    with torch.no_grad():
        for place in ((0, 0), (1, 5)):
            h = 1e-4
            weight[place] += h
            above = loss()
            weight[place] -= 2 * h
            below = loss()
            weight[place] += h
            assert weight.grad[place].item() == pytest.approx(((above - below) / (2 * h)).item(), rel=1e-4)


def test_the_differentiable_sampler_is_the_sampler() -> None:
    model, grid = _model(), Uniform(steps=4)
    made = sample(model, 8, shape=(2,), solver=DDIM(), grid=grid, seed=5).x
    start = Draws(5, torch.arange(8)).normal("start", (2,)) * float(model.path.level(model.path.t_max).sigma)
    mine = differentiable_sample(model, start, DDIM(), grid.times(model.path), Batch().cond, _draws(8))
    assert torch.allclose(mine, made, atol=1e-6)


def test_matching_moves_samples_towards_the_data() -> None:
    model = _model()
    objective = SampleMatching(grid=Uniform(steps=2), kernel=GaussianKernels(scales=(0.3, 1.0)))
    live, optimiser = objective.build(model), torch.optim.Adam(model.parameters(), lr=1e-2)
    values = []
    for step in range(60):
        x0 = 0.5 + 0.2 * torch.randn(64, 2, generator=torch.Generator().manual_seed(step))
        losses = live(model, Batch(x0=x0), PROGRESS, Draws(0, torch.arange(64), step=step))
        assert losses["mmd2"].shape == (64,)
        optimiser.zero_grad()
        losses["mmd2"].mean().backward()
        optimiser.step()
        values.append(losses["mmd2"][0].item())
    assert sum(values[-10:]) < 0.2 * sum(values[:10])


def test_features_of_images_and_what_is_refused() -> None:
    features = RandomConvolutions(channels=(4, 8)).build((1, 8, 8))
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = features(x)
    assert found.shape == (3, 12)
    assert torch.equal(found, RandomConvolutions(channels=(4, 8)).build((1, 8, 8))(x))
    found.sum().backward()
    assert x.grad is not None
    with pytest.raises(UsageError, match="need images"):
        RandomConvolutions().build((2,))
    config = ModelConfig(
        network=UNet(channels=8, groups=4, multipliers=(1,), attention_levels=()),
        shape=(1, 8, 8),
        path=EDM(),
        prediction=EDMPrediction(),
        time=LogSigma(),
    )
    live = SampleMatching(grid=Uniform(steps=2)).build(config.build())
    with pytest.raises(UsageError, match="it needs 2"):
        live(config.build(), Batch(x0=torch.zeros(1, 1, 8, 8)), PROGRESS, _draws(1))


def test_matching_a_map_needs_a_sampler_of_maps() -> None:
    from suffuse.objectives import MeanFlow

    config = ModelConfig(
        network=MLP(width=8, depth=1),
        shape=(2,),
        path=Flow(),
        prediction="flow",  # type: ignore[arg-type]  # a name
        time=Identity(),
        flow_map=MeanFlow().flow_map(),
    )
    model = config.build()
    assert isinstance(model, FlowMap)
    with pytest.raises(UsageError, match="use consistency"):
        SampleMatching().build(model)


def _told(conditioner: object, path: PathPart | None = None) -> Denoiser:
    config = ModelConfig(
        network=UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4),
        shape=(1, 8, 8),
        path=path or VP(schedule="cosine"),
        prediction=V(),
        conditioner=conditioner,  # type: ignore[arg-type]  # a part
    )
    return config.build(seed=0)


def test_a_teacher_is_not_told_what_is_drawn_anew_for_the_student() -> None:
    part = Progressive(first=4, last=1)
    part.build(_told(LowResolution(factor=2)))
    with pytest.raises(UsageError, match="tells something that is drawn anew in training, of which the teacher"):
        part.build(_told(LowResolution(factor=2, augmentation={"noise": 1.0})))


def test_the_loss_at_the_prior_is_guided_as_the_teacher_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(
        network=MLP(width=16, depth=1, zero_init=False),
        shape=(2,),
        path=VP(schedule="cosine"),
        prediction=V(),
        conditioner=ClassLabel(classes=3),
    )
    config.build(seed=1).save_pretrained(tmp_path / "teacher")
    batch = Batch(cond=Conditions.of(label=torch.arange(32) % 3))
    asked: list[tuple[float, bool]] = []
    for boundary in (1.0, 0.0):
        step = TeacherStep(run=str(tmp_path / "teacher"), solver="euler", guidance=4.0)
        part = Bootstrap(teacher=step, boundary=boundary)
        model = config.replace(flow_map=part.flow_map()).build(seed=3)
        loss = part.build(model)
        (teacher,) = loss._teacher  # type: ignore[attr-defined]
        plain = teacher.denoise

        def listen(x: Tensor, t: Tensor, cond: Conditions, call: object = None, plain: object = plain) -> Tensor:
            asked.append((float(t.max()), bool(cond.present["label"].any())))
            return plain(x, t, cond)  # type: ignore[operator]

        monkeypatch.setattr(teacher, "denoise", listen)
        loss(model, batch, PROGRESS, _draws())
        at_the_prior = [known for t, known in asked if t == config.path.t_max]
        assert at_the_prior == ([True, False] if boundary else []), "with and without the condition, or not at all"
        asked.clear()
