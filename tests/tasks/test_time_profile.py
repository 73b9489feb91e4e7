"""Instruments along the time axis: against what is known, and the same for every model that they look at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suffuse.data import Dataset
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.networks import MLP
from suffuse.process import VP, Eps, Flow, FlowVelocity, Identity, PlainWeighting, SharedTimesteps, V, X0Weighting
from suffuse.tasks.time_profile import gradients_at, network_lipschitz, noise_error, path_time, told_alike

TABLE = VP(steps=1000)
DATA = Dataset.of("points", np.linspace(-1, 1, 40, dtype=np.float32).reshape(20, 2))


def model(**fields: object) -> Denoiser:
    chosen = {"path": TABLE, "prediction": V(), **fields}
    config = ModelConfig.model_validate({"network": MLP(width=16, depth=1, zero_init=False), "shape": (2,), **chosen})
    return config.build(seed=1).eval()


def silent(**fields: object) -> Denoiser:
    """A model whose network answers 0."""
    denoiser = model(**fields)
    for p in denoiser.network.parameters():
        p.data.zero_()
    return denoiser


def test_steps_are_indices_of_a_thousand_and_thousandths_of_other_paths() -> None:
    assert [path_time(TABLE, step) for step in (0, 20, 999)] == [0, 20, 999]
    assert [path_time(Flow(), step) for step in (0, 99, 999)] == pytest.approx([0.001, 0.1, 1.0])
    assert path_time(VP(steps=100), 999) == 99


def test_k_is_the_change_over_one_step_and_zero_where_the_network_is_told_the_same() -> None:
    shared = model(time=SharedTimesteps(below=100, intervals=5))
    steps = [0, 18, 19, 20, 99, 100]
    found = network_lipschitz(shared, DATA, steps, samples=8)
    assert told_alike(shared, steps) == [True, True, False, True, False, False]
    assert [value == 0 for value in found.tolist()] == told_alike(shared, steps)
    plain = network_lipschitz(model(time=Identity()), DATA, steps, samples=8)
    assert bool((plain > 0).all())
    assert found[-1] == plain[-1], "above the range the two networks are told the same"


def test_of_a_constant_network_k_is_zero() -> None:
    assert network_lipschitz(silent(), DATA, [0, 500], samples=4).tolist() == [0, 0]


def test_predicting_no_noise_has_the_error_one_on_every_path() -> None:
    for path, prediction in ((TABLE, Eps()), (VP(), Eps())):
        assert noise_error(silent(path=path, prediction=prediction), DATA, 0, 1000, samples=2000) == pytest.approx(
            1, abs=0.05
        )


def test_errors_of_different_predictions_are_of_the_same_noise() -> None:
    # The network that answers 0 for flow estimates x0 = x, hence eps = (x - alpha x) / sigma = x on the flow path.
    found = noise_error(silent(path=Flow(), prediction=FlowVelocity()), DATA, 300, 400, samples=4000)
    t = torch.tensor([path_time(Flow(), step) for step in range(300, 400)], dtype=torch.float64)
    # E (x - eps)**2 = (1 - t)**2 (E x0**2 + 1), since x - eps = (1 - t)(x0 - eps).
    expected = ((1 - t) ** 2).mean() * (float((DATA.values**2).mean()) + 1)
    assert found == pytest.approx(expected.item(), rel=0.05)


def test_gradients_leave_the_model_alone_and_scale_with_the_weight() -> None:
    denoiser = model()
    found = gradients_at(denoiser, DATA, PlainWeighting(), 0, 100, batches=4, batch=8)
    assert all(p.grad is None for p in denoiser.parameters())
    assert found.norm > 0
    again = gradients_at(denoiser, DATA, PlainWeighting(), 0, 100, batches=4, batch=8)
    assert again == found
    # Near clean data the plain weight of v is a hundred and more times that of x0.
    assert found.norm > 10 * gradients_at(denoiser, DATA, X0Weighting(), 0, 100, batches=4, batch=8).norm


def test_larger_batches_carry_more_signal() -> None:
    one = Dataset.of("one", np.zeros((1, 2), np.float32))
    spread = gradients_at(model(), one, PlainWeighting(), 500, 501, batches=3, batch=256)
    assert spread.signal > gradients_at(model(), one, PlainWeighting(), 500, 501, batches=3, batch=4).signal


def test_the_signal_is_unbiased_and_does_not_grow_with_the_number_of_batches() -> None:
    def signal(batches: int, seed: int) -> float:
        return gradients_at(model(), DATA, PlainWeighting(), 0, 1000, batches=batches, batch=4, seed=seed).signal

    few = sum(signal(16, seed) for seed in range(60)) / 60
    many = sum(signal(400, seed) for seed in range(4)) / 4
    # A sixteenth of the variance is in the mean of sixteen: left in, it would add 0.06.
    assert few == pytest.approx(many, abs=0.03)
