"""The penalty on the change in time: what it is, where it counts, and that without it nothing changes."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from suffuse.base.batch import Batch
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws, keys, normal
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.networks import MLP
from suffuse.objectives import Denoising, Progress
from suffuse.objectives.time_penalty import TimePenalty
from suffuse.process import EDM, VP, Eps, LogSigma, PathPart, SharedTimesteps, TimeConditionPart, UniformIndices, V

TABLE = VP(steps=1000)
DRAWS = Draws(seed=0, index=torch.arange(64), total=64)
X0 = normal(keys(1, "data", 0, torch.arange(64)), (2,))


def model(path: PathPart = TABLE, time: TimeConditionPart | None = None) -> Denoiser:
    fields = {} if time is None else {"time": time}
    return ModelConfig(
        network=MLP(width=16, depth=1, zero_init=False), shape=(2,), path=path, prediction=V(), **fields
    ).build(seed=3)


def losses(denoiser: Denoiser, **fields: object) -> dict[str, torch.Tensor]:
    objective = Denoising.model_validate({"noise_levels": "indices", **fields})
    return objective.build(denoiser)(denoiser, Batch(x0=X0), Progress(0, 1), DRAWS)


def test_it_is_the_squared_change_over_one_step_at_the_same_sample() -> None:
    denoiser = model()
    found = losses(denoiser, time_penalty={"strength": 3.0, "below": 500})["time_penalty"]
    t = UniformIndices().draw(DRAWS, TABLE)
    level = TABLE.level(t, X0)
    x = level.alpha * X0 + level.sigma * DRAWS.normal("eps", (2,))
    change = denoiser.evaluate(x, t + 1).raw - denoiser.evaluate(x, t).raw
    expected = torch.where(t < 500, 3 * change.square().mean(1), 0.0).float()
    assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert 0 < (found > 0).sum() < len(found)


def test_without_it_and_at_strength_zero_the_loss_is_the_plain_one() -> None:
    plain = losses(model())
    assert set(plain) == {"denoising"}
    zero = losses(model(), time_penalty={"strength": 0.0})
    assert torch.equal(zero["denoising"], plain["denoising"])
    assert zero["time_penalty"].count_nonzero() == 0


def test_its_gradient_reaches_the_network_from_both_times() -> None:
    denoiser = model()
    losses(denoiser, time_penalty={"below": 500})["time_penalty"].sum().backward()
    assert all(p.grad is not None for name, p in denoiser.network.named_parameters() if "time" in name)


def test_a_network_that_is_told_the_same_throughout_has_none() -> None:
    shared = model(time=SharedTimesteps(below=100, intervals=1))
    found = losses(shared, time_penalty={"below": 99})["time_penalty"]  # the step from 99 to 100 leaves the range
    assert found.count_nonzero() == 0


def test_a_batch_without_small_times_has_none_either() -> None:
    found = losses(model(), time_penalty={"below": 1e-3})
    assert found["time_penalty"].count_nonzero() == 0


def test_on_paths_in_sigmas_its_range_must_be_said() -> None:
    on_edm = ModelConfig(
        network=MLP(width=8, depth=1), shape=(2,), path=EDM(), prediction=Eps(), time=LogSigma()
    ).build()
    with pytest.raises(UsageError, match=r"'below' has no default on path 'edm'.*objective.time_penalty.below"):
        Denoising(time_penalty=TimePenalty()).build(on_edm)
    Denoising(time_penalty=TimePenalty(below=0.5)).build(on_edm)
