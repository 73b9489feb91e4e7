"""Predictions: exact conversions among all six, on every path, and the identities that the papers state."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from suffuse.process import (
    VP,
    X0,
    ConsistencyPrediction,
    EDMPrediction,
    Eps,
    FlowVelocity,
    PathPart,
    Prediction,
    PredictionPart,
    Score,
    TrigonometricPath,
    V,
    eps_of,
    perturb,
    score_of,
    velocity_of,
    x0_of_eps,
)

Times = Callable[..., Tensor]
SIGMA_DATA = 0.7
PREDICTIONS: list[PredictionPart] = [part() for part in get_args(Prediction)[1].parts.values()]
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda part: part.kind)


def data_and_noise(n: int) -> tuple[Tensor, Tensor]:
    """(n, 3, 2) each, float64."""
    x0, eps = torch.randn(2, n, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return SIGMA_DATA * x0, eps


def estimate(prediction: PredictionPart, x: Tensor, raw: Tensor, path: PathPart, t: Tensor) -> Tensor:
    level = path.level(t, x)
    c_skip, c_out = prediction.output(level.alpha, level.sigma, SIGMA_DATA)  # type: ignore[type-var]  # tensors here
    return c_skip * x + c_out * raw


@every_prediction
def test_the_target_gives_the_data(path: PathPart, prediction: PredictionPart, times: Times) -> None:
    t = times(path)
    x0, eps = data_and_noise(len(t))
    x, level = perturb(path, x0, eps, t), path.level(t, x0)
    target = prediction.target(x0, eps, level, SIGMA_DATA)
    # Dividing by alpha (by sigma**2 for the score) magnifies the rounding of x, which is that of float64 times itself.
    worst = float((x.abs() / path.alpha(t).reshape(-1, 1, 1)).max())
    assert_close(estimate(prediction, x, target, path, t), x0, rtol=0, atol=1e-14 * max(worst, 10))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["64", "32"])
def test_round_trips(dtype: torch.dtype, tolerance: float, path: PathPart, moderate_times: Times) -> None:
    # e**5 = 150 is the worst magnification: 1e-16 and 1e-7 become 1e-14 and 2e-5.
    t = moderate_times(path, 5.0)
    x0, eps = (value.to(dtype) for value in data_and_noise(len(t)))
    level, x = path.level(t, x0), perturb(path, x0, eps, t)

    def convert(raw: Tensor, old: PredictionPart, new: PredictionPart) -> Tensor:
        denoised = estimate(old, x, raw, path, t)
        return new.target(denoised, eps_of(x, denoised, level), level, SIGMA_DATA)

    for first, second in itertools.product(PREDICTIONS, repeat=2):
        raw = first.target(x0, eps, level, SIGMA_DATA) + 0.1  # not the truth: estimates are arbitrary
        again = convert(convert(raw, first, second), second, first)
        size = raw.square().mean(dim=(1, 2), keepdim=True).sqrt()
        assert_close(again / size, raw / size, rtol=0, atol=tolerance, msg=f"{first.kind} to {second.kind} and back")


def test_targets_are_what_the_papers_say(path: PathPart, moderate_times: Times) -> None:
    t = moderate_times(path)
    x0, eps = data_and_noise(len(t))
    level = path.level(t, x0)
    meanings = {
        Eps(): eps,
        X0(): x0,
        V(): level.alpha * eps - level.sigma * x0,
        FlowVelocity(): eps - x0,
        Score(): -eps / level.sigma,
        EDMPrediction(): (level.sigma * x0 - level.alpha * SIGMA_DATA**2 * eps)
        / (SIGMA_DATA * (level.sigma**2 + (level.alpha * SIGMA_DATA) ** 2) ** 0.5),
    }
    # EDM's, with the boundary at r_min instead of 0.
    own = ConsistencyPrediction()
    beyond, variance = level.sigma - own.r_min * level.alpha, level.sigma**2 + (level.alpha * SIGMA_DATA) ** 2
    c_skip = level.alpha * SIGMA_DATA**2 / (beyond**2 + (level.alpha * SIGMA_DATA) ** 2)
    x = level.alpha * x0 + level.sigma * eps
    meanings[own] = (x0 - c_skip * x) * variance**0.5 / (SIGMA_DATA * beyond)
    assert set(meanings) == set(PREDICTIONS)
    for prediction, target in meanings.items():
        assert_close(prediction.target(x0, eps, level, SIGMA_DATA), target, rtol=1e-9, atol=1e-9)


@every_prediction
def test_coefficients_of_floats_are_those_of_tensors(prediction: PredictionPart) -> None:
    alpha, sigma = 0.6, 0.9
    wide = torch.tensor([alpha, 0.1], dtype=torch.float64), torch.tensor([sigma, 2.0], dtype=torch.float64)
    for one, many in zip(
        (*prediction.output(alpha, sigma, SIGMA_DATA), prediction.c_in(alpha, sigma, SIGMA_DATA)),
        (*prediction.output(*wide, SIGMA_DATA), prediction.c_in(*wide, SIGMA_DATA)),
        strict=True,
    ):
        assert one == pytest.approx(float(torch.as_tensor(many).expand(2)[0]), rel=1e-14)


@every_prediction
def test_singular_predictions_are_those_that_divide_by_alpha(prediction: PredictionPart) -> None:
    sigma = torch.ones(1, dtype=torch.float64)
    coefficients = torch.cat(prediction.output(torch.zeros_like(sigma), sigma, SIGMA_DATA))
    assert prediction.singular_at_zero_alpha() == (not coefficients.isfinite().all())


def test_v_and_noisy_samples_are_those_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    x0, eps = (value.float() for value in data_and_noise(6))
    index, path = torch.tensor([0, 3, 50, 400, 800, 999]), VP(steps=1000)
    theirs = DDPMScheduler(1000).get_velocity(x0, eps, index)  # type: ignore[no-untyped-call]  # not typed there
    ours = V().target(x0, eps, path.level(index, x0), SIGMA_DATA)
    # float32; at index 0 our target divides a difference by sigma = 0.01.
    assert_close(ours, theirs, rtol=0, atol=3e-5)


def test_edm_with_unit_data_is_minus_v(vp: PathPart, times: Times) -> None:
    level = vp.level(times(vp), torch.zeros(1, dtype=torch.float64))
    skip, out = EDMPrediction().output(level.alpha, level.sigma, 1.0)  # type: ignore[type-var]  # tensors here
    v_skip, v_out = V().output(level.alpha, level.sigma, 1.0)  # type: ignore[type-var]  # tensors here
    assert_close(skip, v_skip, rtol=1e-12, atol=1e-12)
    assert_close(out, -v_out, rtol=1e-12, atol=1e-12)
    assert_close(EDMPrediction().c_in(level.alpha, level.sigma, 1.0), torch.ones_like(out), rtol=1e-12, atol=0)  # type: ignore[type-var]  # tensors here


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_on_the_trigonometric_path_is_trigflow(sigma_data: float) -> None:
    path, t = TrigonometricPath(sigma_data=sigma_data), torch.linspace(0.01, 1.57, 50, dtype=torch.float64)
    skip, out = EDMPrediction().output(path.alpha(t), path.sigma(t), sigma_data)
    assert_close(skip, t.cos(), rtol=1e-12, atol=1e-12)
    assert_close(out, sigma_data * t.sin(), rtol=1e-12, atol=1e-12)
    assert_close(
        EDMPrediction().c_in(path.alpha(t), path.sigma(t), sigma_data),
        torch.full_like(t, 1 / sigma_data),
        rtol=1e-12,
        atol=0,
    )


def test_edm_has_unit_input_and_target_and_the_least_output(path: PathPart, times: Times) -> None:
    t = times(path)
    alpha, sigma = path.alpha(t), path.sigma(t)
    skip, out = EDMPrediction().output(alpha, sigma, SIGMA_DATA)
    c_in = EDMPrediction().c_in(alpha, sigma, SIGMA_DATA)
    ones = torch.ones_like(t)
    assert_close(c_in**2 * (alpha**2 * SIGMA_DATA**2 + sigma**2), ones, rtol=1e-12, atol=0)

    def target_variance(skip: Tensor) -> Tensor:
        return (1 - skip * alpha) ** 2 * SIGMA_DATA**2 + skip**2 * sigma**2

    # Where sigma is small, 1 - c_skip alpha is a difference of nearly equal numbers.
    assert_close(target_variance(skip) / out**2, ones, rtol=1e-6, atol=0)
    for other in (0.9, 1.1):
        assert (target_variance(other * skip) >= out**2 * (1 - 1e-6)).all(), "another c_skip would magnify errors"


def test_estimates_agree_whatever_they_are_made_of(path: PathPart, moderate_times: Times) -> None:
    t = moderate_times(path)
    x0, eps = data_and_noise(len(t))
    x, level = perturb(path, x0, eps, t), path.level(t, x0)
    assert_close(eps_of(x, x0, level), eps, rtol=0, atol=1e-12)
    assert_close(x0_of_eps(x, eps, level), x0, rtol=0, atol=1e-12)
    assert_close(score_of(x, x0, level), -eps / level.sigma, rtol=1e-10, atol=1e-12)


def test_score_is_the_gradient_of_the_log_density(path: PathPart, moderate_times: Times) -> None:
    # Data N(0, s**2): x_t is N(0, alpha**2 s**2 + sigma**2) and E[x0 | x_t] is linear.
    t = moderate_times(path)
    x = torch.linspace(-2, 2, len(t), dtype=torch.float64).requires_grad_()
    alpha, sigma = path.alpha(t), path.sigma(t)
    variance = (alpha * SIGMA_DATA) ** 2 + sigma**2
    (gradient,) = torch.autograd.grad((-0.5 * x**2 / variance).sum(), x)
    x = x.detach()
    mean = alpha * SIGMA_DATA**2 / variance * x
    assert_close(score_of(x, mean, path.level(t, x)), gradient, rtol=1e-9, atol=1e-12)


def test_velocity_is_the_derivative_along_the_path(path: PathPart, times: Times) -> None:
    t = times(path).requires_grad_()
    x0, eps = (value[:, 0, 0] for value in data_and_noise(len(t)))
    x = path.alpha(t) * x0 + path.sigma(t) * eps
    (slope,) = torch.autograd.grad(x.sum(), t)
    # eps is recovered from x by dividing by sigma: 1e-16 / sigma, times sigma'.
    assert_close(velocity_of(x.detach(), x0, path, t.detach()), slope, rtol=1e-9, atol=1e-9)


def test_velocity_is_drift_minus_half_the_diffused_score(path: PathPart, moderate_times: Times) -> None:
    t = moderate_times(path)
    x0, eps = data_and_noise(len(t))
    x = perturb(path, x0, eps, t)
    drift, sigma = path.d_alpha(t) / path.alpha(t), path.sigma(t)
    expected = drift[:, None, None] * x - (sigma * path.d_half_log_snr(t))[:, None, None] * eps
    assert_close(velocity_of(x, x0, path, t), expected, rtol=1e-10, atol=1e-12)


def test_velocity_is_finite_at_the_noise_end(zero_snr: PathPart) -> None:
    x0, eps = data_and_noise(2)
    t = torch.full((2,), zero_snr.t_max, dtype=torch.float64)
    assert_close(velocity_of(eps, x0, zero_snr, t), zero_snr.d_alpha(t)[0] * x0, rtol=1e-12, atol=0)


def test_v_is_the_velocity_of_the_angle(vp: PathPart, moderate_times: Times) -> None:
    # With theta = atan(sigma / alpha): dx/dt = theta' v.
    t = moderate_times(vp)
    x0, eps = data_and_noise(len(t))
    level, x = vp.level(t, x0), perturb(vp, x0, eps, t)
    turn = vp.alpha(t) * vp.d_sigma(t) - vp.sigma(t) * vp.d_alpha(t)
    expected = turn[:, None, None] * V().target(x0, eps, level, SIGMA_DATA)
    assert_close(velocity_of(x, x0, vp, t), expected, rtol=1e-9, atol=1e-10)
