"""MeanFlow and sCM: exact solutions, the limits that they have in common with others, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.call import Call
from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.config import ModelConfig
from suffuse.models.flow_map import FlowMap, FlowMapSettings
from suffuse.networks import MLP
from suffuse.networks.contract import Network, Output
from suffuse.objectives import Consistency, ContinuousConsistency, MeanFlow, ObjectivePart, Progress
from suffuse.objectives.pair_metric import L2
from suffuse.process import (
    EDM,
    EDMPrediction,
    Flow,
    FlowVelocity,
    GapPairs,
    Identity,
    LogNormal,
    PathPart,
    PredictionPart,
    TrigonometricPath,
)
from suffuse.training.recipe_files import load_recipe

PROGRESS = Progress(step=500, total=1000)


def _draws(n: int = 32) -> Draws:
    return Draws(0, torch.arange(n), step=1, total=n)


def _model(objective: ObjectivePart, path: PathPart, prediction: PredictionPart, sigma_data: float = 0.5) -> FlowMap:
    config = ModelConfig(
        network=MLP(width=32, depth=2, zero_init=False),
        shape=(2,),
        path=path,
        prediction=prediction,
        time=Identity(scale=1.0),
        sigma_data=sigma_data,
        flow_map=objective.flow_map(),
    )
    model = config.build()
    assert isinstance(model, FlowMap)
    return model


class _PointVelocity(Network):
    """u(x_t, t, s) of a data set that is the one point xi, on the flow path: (x_t - xi) / t whatever s."""

    def __init__(self, xi: Tensor) -> None:
        super().__init__()
        self.xi, self.cond_width = nn.Parameter(xi), 8
        self.widths, self.graph = {"output": 2}, {"output": ()}

    def forward(  # type: ignore[override]  # no taps here
        self, x: Tensor, told: Tensor, cond: Embedding | None = None, *, seeds: Tensor | None = None, **_: object
    ) -> Output:
        return Output((x - self.xi) / told[:, None])


def test_mean_flow_is_solved_by_the_exact_average_velocity() -> None:
    xi = torch.tensor([0.4, -0.3])
    model = FlowMap(
        _PointVelocity(xi),
        path=Flow(t_start=0.05),
        prediction=FlowVelocity(),
        time=Identity(scale=1.0),
        settings=FlowMapSettings(end="clean", any_target=True),
    )
    objective = MeanFlow(instantaneous=0.25, power=0.0)
    losses = objective.build(model)(model, Batch(x0=xi.expand(32, 2)), PROGRESS, _draws())
    assert losses["mean_flow"].max().item() < 1e-6


def test_mean_flow_at_equal_times_is_flow_matching() -> None:
    objective = MeanFlow(instantaneous=1.0, power=0.0)
    model, batch, draws = _model(objective, Flow(), FlowVelocity()), Batch(x0=torch.full((32, 2), 0.3)), _draws()
    assert batch.x0 is not None
    t, s = objective._times(draws, model.path)
    assert torch.equal(t, s)
    eps = draws.normal("eps", (2,))
    x = (1 - t.float())[:, None] * batch.x0 + t.float()[:, None] * eps
    u = model.evaluate(x, t, call=Call(target=s)).raw
    expected = (u - (eps - batch.x0)).square().sum(1)
    found = objective.build(model)(model, batch, PROGRESS, draws)["mean_flow"]
    assert torch.allclose(found, expected, rtol=1e-4)


def test_the_adaptive_weight_leaves_the_direction_alone() -> None:
    plain, weighted = MeanFlow(power=0.0), MeanFlow(power=1.0, c=1e-3)
    model, batch = _model(plain, Flow(), FlowVelocity()), Batch(x0=torch.full((32, 2), 0.3))
    squared = plain.build(model)(model, batch, PROGRESS, _draws())["mean_flow"]
    found = weighted.build(model)(model, batch, PROGRESS, _draws())["mean_flow"]
    assert torch.allclose(found, squared / (squared + 1e-3), rtol=1e-4)


def test_mean_flow_refuses_other_paths_and_models() -> None:
    with pytest.raises(UsageError, match="use path=flow"):
        MeanFlow().check(EDM(), 100)
    with pytest.raises(UsageError, match="prediction 'flow'"):
        MeanFlow().build(_model(MeanFlow(), Flow(), EDMPrediction()))


def _gradient(model: FlowMap, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_continuous_consistency_is_the_limit_of_neighbouring_times() -> None:
    """The gradient of sCM's loss, without its normalisation, points where consistency training's does for tiny gaps."""
    data, batch = 0.5, Batch(x0=0.5 * torch.randn(32, 2, generator=torch.Generator().manual_seed(1)))
    levels = LogNormal(mean=-1.0, std=0.5)
    continuous = ContinuousConsistency(noise_levels=levels, warmup=0.0, c=1e6, adaptive=False)
    model = _model(continuous, TrigonometricPath(sigma_data=data), EDMPrediction(), data)
    found = _gradient(model, continuous.build(model)(model, batch, PROGRESS, _draws())["continuous_consistency"].mean())
    close = Consistency(
        pairs=GapPairs(levels=levels, q=1e4, stages=1, k=0.0), metric=L2(reduce="mean"), weighting="one", end="clean"
    )
    twin = _model(close, TrigonometricPath(sigma_data=data), EDMPrediction(), data)
    twin.load_state_dict(model.state_dict())
    expected = _gradient(twin, close.build(twin)(twin, batch, PROGRESS, _draws())["consistency"].mean())
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=0).item()
    assert cosine > 0.8  # the two weigh noise levels differently, so that the directions are alike but not the same


def test_the_tangent_vanishes_for_a_point_of_data() -> None:
    """f = xi is constant along trajectories: prediction EDM with the F that gives it."""
    data, xi = 0.5, torch.tensor([0.4, -0.3])

    class Exact(_PointVelocity):
        def forward(self, x: Tensor, told: Tensor, cond: Embedding | None = None, **_: object) -> Output:  # type: ignore[override]  # as above
            t = told[:, None]
            return Output((self.xi - t.cos() * x * data) / (data * t.sin()))

    model = FlowMap(
        Exact(xi),
        path=TrigonometricPath(sigma_data=data),
        prediction=EDMPrediction(),
        time=Identity(scale=1.0),
        sigma_data=data,
        settings=FlowMapSettings(end="clean"),
    )
    objective = ContinuousConsistency(warmup=0.0, c=1.0, adaptive=False, noise_levels=LogNormal(mean=-1.0, std=0.5))
    losses = objective.build(model)(model, Batch(x0=xi.expand(32, 2)), PROGRESS, _draws())
    assert losses["continuous_consistency"].max().item() < 1e-6


def test_the_learned_weight_starts_at_one() -> None:
    objective = ContinuousConsistency()
    model = _model(objective, TrigonometricPath(sigma_data=0.5), EDMPrediction())
    live = objective.build(model)
    losses = live(model, Batch(x0=torch.full((32, 2), 0.3)), PROGRESS, _draws())
    assert torch.equal(losses["weight"], torch.zeros(32))
    assert isinstance(live, nn.Module)
    assert len(list(live.parameters())) == 2


def test_continuous_consistency_refuses_other_paths() -> None:
    with pytest.raises(UsageError, match="path=trigonometric"):
        ContinuousConsistency().check(Flow(), 100)
    model = _model(ContinuousConsistency(), TrigonometricPath(sigma_data=1.0), EDMPrediction(), sigma_data=0.5)
    with pytest.raises(UsageError, match="set them equal"):
        ContinuousConsistency().build(model)


def test_conditions_may_be_hidden() -> None:
    objective = MeanFlow(condition_dropout=1.0)
    model = _model(objective, Flow(), FlowVelocity())
    batch = Batch(x0=torch.full((8, 2), 0.3), cond=Conditions())
    assert bool(objective.build(model)(model, batch, PROGRESS, _draws(8))["mean_flow"].isfinite().all())


@pytest.mark.parametrize("objective", ["mean_flow", "continuous_consistency"])
def test_a_network_that_computes_again_has_no_derivative(objective: str) -> None:
    changes = ["network={kind: unet, checkpointing: true}", f"objective={objective}", "steps=10"]
    if objective == "mean_flow":
        changes += ["path=flow", "prediction=flow", "sampling.solver=map_steps"]
    else:
        changes += ["path=trigonometric", "prediction=edm", "time=identity", "sampling.solver=consistency"]
    with pytest.raises(UsageError, match=r"computes its blocks again does not give; set network.checkpointing=false"):
        load_recipe("digits-ddpm", changes).check()
