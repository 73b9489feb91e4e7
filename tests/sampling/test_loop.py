"""The sampling loop: samples that do not depend on the batch, counted evaluations, and nothing left changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.conditioner import ClassLabel
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.exact import ExactMixture
from suffuse.networks import MLP
from suffuse.networks.contract import Network, Output
from suffuse.networks.part import seeded
from suffuse.process import EDM, VP, EDMPrediction, Flow, LogSigma, PathPart, V
from suffuse.sampling import (
    CFG,
    DDIM,
    DDPM,
    DPMSolverPP,
    Karras,
    ListedTimes,
    Samples,
    SolverPart,
    Uniform,
    loop,
    sample,
    sample_batches,
)

SHAPE = (2, 6, 6)


class SmallConv(Network):
    """A convolutional network that reads the noise level and a condition vector, and drops out when training."""

    cond_width = 4

    def __init__(self) -> None:
        super().__init__()
        self.widths, self.graph = {}, {"output": ()}
        self.first, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
        self.level, self.cond = nn.Linear(1, 8), nn.Linear(4, 8)
        self.frozen = nn.Dropout(0.5).eval()

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
        assert not self.training, "the loop samples in evaluation mode"
        assert not torch.is_grad_enabled()
        hidden = self.first(x) + self.level(told[:, None])[..., None, None]
        if cond is not None and cond.vector is not None:
            hidden = hidden + self.cond(cond.vector)[..., None, None]
        return Output(self.last(self.frozen(hidden).tanh()))


@pytest.fixture
def model() -> Denoiser:
    with seeded(0):
        return Denoiser(
            SmallConv(),
            path=EDM(),
            prediction=EDMPrediction(),
            time=LogSigma(),
            conditioner=ClassLabel(classes=3).build(4),
        )


LABELS = Conditions.of(label=torch.tensor([0, 1, 2, 0, 1, 2, 1]))
GRID = Karras(steps=6)


def test_batch_size_does_not_matter(solver: SolverPart, model: Denoiser) -> None:
    def run(batch: int) -> Tensor:
        return sample(
            model, 7, shape=SHAPE, solver=solver, grid=GRID, cond=LABELS, guidance=CFG(scale=2.0), seed=3, batch=batch
        ).x

    whole = run(7)
    assert torch.isfinite(whole).all()
    for batch in (1, 3, 100):
        # The noise is the same bit by bit; convolutions of another batch size add in another order.
        torch.testing.assert_close(run(batch), whole, rtol=1e-5, atol=1e-5)


def test_exact_mixture_is_bit_equal_in_any_batch(
    solver: SolverPart, mixture: Callable[[PathPart], ExactMixture]
) -> None:
    def run(n: int, batch: int, first: int = 0) -> Tensor:
        model, grid = mixture(EDM()), Karras(steps=5)
        return sample(model, n, shape=(1,), solver=solver, grid=grid, seed=3, batch=batch, first=first).x

    whole = run(7, batch=7)
    for batch in (1, 3):
        assert torch.equal(run(7, batch), whole)
    assert torch.equal(run(4, batch=3, first=3), whole[3:]), "image k of a seed is the same wherever one starts"


def test_start_is_keyed_noise_at_the_first_level() -> None:
    class Watched(ExactMixture):
        def denoise(self, x: Tensor, t: float | Tensor, cond: object = None, call: object = None) -> Tensor:
            seen.append((x.clone(), t))
            return super().denoise(x, t)

    for path in (EDM(), Flow(t_end=0.9), VP(steps=1000)):
        seen: list[tuple[Tensor, float]] = []
        model = Watched(path, torch.ones(1), torch.zeros(1, 2), torch.ones(1))
        sample(model, 5, shape=(2,), solver=DDIM(), grid=Uniform(steps=3), seed=9, batch=4, first=10)
        started = torch.cat([seen[0][0], seen[3][0]])
        noise = Draws(9, torch.arange(10, 15)).normal("start", (2,))
        assert torch.equal(started, noise * path.level(path.t_max).sigma)
        assert [t for _, t in seen] == list(Uniform(steps=3).times(path)[:-1]) * 2


def test_seeds_differ_and_repeat(model: Denoiser) -> None:
    runs = [sample(model, 3, shape=SHAPE, solver=DDPM(), grid=GRID, seed=seed).x for seed in (0, 1, 0)]
    assert torch.equal(runs[0], runs[2])
    assert (runs[0] - runs[1]).abs().mean() > 0.05


def test_noise_of_steps_and_start_are_independent() -> None:
    draws = Draws(0, torch.arange(20000))
    noises = [draws.normal("start", (1,)), *(draws.at(i).normal("solver", (1,)) for i in range(4))]
    correlation = torch.corrcoef(torch.cat(noises, dim=1).T.double())
    assert (correlation - torch.eye(5)).abs().max() < 4.5 / 20000**0.5


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("guidance", "per_step"),
    [({}, 1), ({"scale": 0.0}, 1), ({"scale": 3.0}, 2), ({"scale": 3.0, "above": 1.0, "up_to": 60.0}, 1.5)],
)
def test_evaluations_are_counted(model: Denoiser, together: bool, guidance: dict[str, float], per_step: float) -> None:
    # sigma at the 4 steps: 80, 9.7, 0.47, 0.002; one lies inside (1, 60], so 5 of at most 8 halves run.
    steer = CFG(together=together, **guidance)
    grid = Karras(steps=4)
    expected = 5 if per_step == 1.5 else 4 * per_step
    for batch in (7, 2):
        made = sample(model, 7, shape=SHAPE, solver=DDIM(), grid=grid, guidance=steer, cond=LABELS, batch=batch)
        assert made.nfe == expected
        assert made.seconds > 0
    assert steer.most_evaluations == (2 if per_step > 1 else 1)


def test_every_solver_is_counted(solver: SolverPart, model: Denoiser) -> None:
    assert sample(model, 2, shape=SHAPE, solver=solver, grid=GRID).nfe == solver.evaluations(6)
    short = GRID.replace(end="t_min")
    assert sample(model, 2, shape=SHAPE, solver=solver, grid=short).nfe == solver.evaluations(6, to_clean=False)


def test_a_model_with_a_configuration_needs_no_more_than_a_count() -> None:
    config = ModelConfig(network=MLP(width=8, depth=1, zero_init=False), shape=(2,), path=VP(steps=100), prediction=V())
    model = config.build()
    made = sample(model, 3)
    assert torch.equal(made.x, sample(model, 3, shape=(2,), solver=DPMSolverPP(), grid=Uniform(steps=20)).x)
    bare = ExactMixture(EDM(), torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    model.config = None
    for unknown in (bare, model):
        with pytest.raises(UsageError, match="no configuration that tells the shape of its samples; give `shape`"):
            sample(unknown, 3)


def test_time_is_read_when_the_device_is_done(model: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    sample(model, 2, shape=SHAPE, solver=DDIM(), grid=GRID)
    assert not waited, "a CPU is done when it returns"
    loop._clock(torch.device("cuda", 1))
    assert waited == [torch.device("cuda", 1)]


def test_modes_come_back_also_after_a_failure(model: Denoiser) -> None:
    model.train()
    model.network.frozen.eval()
    modes = [module.training for module in model.modules()]
    assert set(modes) == {True, False}
    sample(model, 2, shape=SHAPE, solver=DDIM(), grid=GRID)
    assert [module.training for module in model.modules()] == modes

    def fail(start: int, done: int) -> None:
        assert not model.network.training
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, 2, shape=SHAPE, solver=DDIM(), grid=GRID, on_step=fail)
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()


def test_the_model_trains_between_batches(model: Denoiser) -> None:
    model.train()
    for made in sample_batches(model, 4, shape=SHAPE, solver=DDIM(), grid=GRID, batch=2):
        assert model.network.training, "a caller that has a batch in hand has the model as it was"
        assert torch.is_grad_enabled()
        assert len(made.x) == 2


def test_batches_are_let_go(model: Denoiser) -> None:
    alive: list[weakref.ref[Tensor]] = []
    for made in sample_batches(model, 8, shape=SHAPE, solver=DPMSolverPP(), grid=GRID, batch=2):
        assert sum(ref() is not None for ref in alive) == 0
        alive.append(weakref.ref(made.x))
        del made
    assert len(alive) == 4


def test_on_step_tells_the_progress(model: Denoiser) -> None:
    seen: list[tuple[int, int]] = []
    sample(model, 5, shape=SHAPE, solver=DDIM(), grid=Karras(steps=2), batch=2, on_step=lambda *at: seen.append(at))
    assert seen == [(0, 1), (0, 2), (2, 1), (2, 2), (4, 1), (4, 2)]


def test_batches_stack_to_the_whole(model: Denoiser) -> None:
    kwargs = {"shape": SHAPE, "solver": DDPM(), "grid": GRID, "cond": LABELS, "batch": 3}
    parts = list(sample_batches(model, 7, **kwargs))
    whole = sample(model, 7, **kwargs)
    assert [len(part.x) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    assert isinstance(whole, Samples)


def test_precision_and_dtype(model: Denoiser) -> None:
    exact = sample(model, 3, shape=SHAPE, solver=DDIM(), grid=GRID)
    half = sample(model, 3, shape=SHAPE, solver=DDIM(), grid=GRID, precision="bfloat16")
    assert exact.x.dtype == half.x.dtype == torch.float32, "the state stays float32 under a bfloat16 network"
    assert not torch.equal(exact.x, half.x)
    torch.testing.assert_close(exact.x, half.x, rtol=0.1, atol=0.05)
    double = ExactMixture(EDM(), torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    assert sample(double, 3, shape=(2,), solver=DDIM(), grid=GRID, dtype=torch.float64).x.dtype == torch.float64


def test_mistakes_are_named_before_any_work(model: Denoiser) -> None:
    def run(n: int = 7, **changes: object) -> Samples:
        plain: dict[str, object] = {"shape": SHAPE, "solver": DDIM(), "grid": GRID, "on_step": lambda *_: 1 / 0}
        return sample(model, n, **{**plain, **changes})

    with pytest.raises(UsageError, match="n is 0 and batch 64; both must be at least 1"):
        run(n=0)
    with pytest.raises(UsageError, match="n is 7 and batch -1; both must be at least 1"):
        run(batch=-1)
    with pytest.raises(UsageError, match="condition 'label' has 7 values for 8 samples; give one for each sample"):
        run(n=8, cond=LABELS)
    with pytest.raises(UsageError, match="labels run from 0 to 3, but the model knows 0 to 2"):
        run(n=2, cond=Conditions.of(label=torch.tensor([0, 3])))
    with pytest.raises(UsageError, match="grid 'list' with 2 steps does not fall from 1 to 2"):
        run(grid=ListedTimes(listed=(1.0, 2.0)))


def test_endpoints_are_refused(solver: SolverPart, model: Denoiser) -> None:
    model.estimate = "endpoint"  # type: ignore[misc]  # stands in for a consistency model
    if solver.needs_mean:
        with pytest.raises(UsageError, match=rf"solver '{solver.kind}' needs the posterior mean.*consistency solver"):
            sample(model, 1, shape=SHAPE, solver=solver, grid=GRID)
