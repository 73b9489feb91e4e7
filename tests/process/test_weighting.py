"""Weightings: the published identities, all on |D - x0|**2, with lambda the half log-SNR."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from suffuse.process import (
    EDM,
    P2,
    VP,
    X0,
    EDMPrediction,
    EDMWeighting,
    Eps,
    EpsWeighting,
    Flow,
    FlowVelocity,
    LogNormal,
    MinSNR,
    PathPart,
    PlainWeighting,
    PredictionPart,
    Score,
    SigmoidWeighting,
    TruncatedSNR,
    V,
    VWeighting,
    Weighting,
    WeightingPart,
    X0Weighting,
    eps_of,
    perturb,
)

Times = Callable[..., Tensor]
SIGMA_DATA = 0.5
LAMBDA = torch.linspace(-6, 6, 121, dtype=torch.float64)
SNR = LAMBDA.exp() ** 2
UNUSED = torch.full_like(LAMBDA, math.nan)  # c_out, where a weighting must not read it


def c_out(prediction: PredictionPart, path: PathPart, t: Tensor) -> Tensor:
    return prediction.output(path.alpha(t), path.sigma(t), SIGMA_DATA)[1]


def weights(weighting: WeightingPart, prediction: PredictionPart, path: PathPart, t: Tensor) -> Tensor:
    return weighting.of(path.half_log_snr(t), c_out(prediction, path, t))


@pytest.mark.parametrize("weighting", [part() for part in get_args(Weighting)[1].parts.values()], ids=lambda w: w.kind)
def test_weights_are_positive_and_finite(weighting: WeightingPart) -> None:
    found = weighting.of(LAMBDA, torch.full_like(LAMBDA, 0.3))
    assert found.shape == LAMBDA.shape
    assert found.dtype == LAMBDA.dtype
    assert found.isfinite().all()
    assert (found > 0).all()


@pytest.mark.parametrize("prediction", [Eps(), X0(), V(), FlowVelocity(), Score(), EDMPrediction()])
def test_plain_is_the_loss_of_the_target(path: PathPart, prediction: PredictionPart, moderate_times: Times) -> None:
    t = moderate_times(path)
    generator = torch.Generator().manual_seed(0)
    x0, eps, denoised = torch.randn(3, len(t), generator=generator, dtype=torch.float64)
    level, x = path.level(t, x0), perturb(path, x0, eps, t)
    raw = prediction.target(denoised, eps_of(x, denoised, level), level, SIGMA_DATA)
    loss = (raw - prediction.target(x0, eps, level, SIGMA_DATA)) ** 2
    weighted = weights(PlainWeighting(), prediction, path, t) * (denoised - x0) ** 2
    assert_close(weighted, loss, rtol=1e-9, atol=1e-12)


def test_unit_weights_of_a_target_are_plain_weights_of_its_prediction(path: PathPart, times: Times) -> None:
    t = times(path)
    pairs: list[tuple[WeightingPart, PredictionPart]] = [
        (EpsWeighting(), Eps()),
        (X0Weighting(), X0()),
        (EDMWeighting(sigma_data=SIGMA_DATA), EDMPrediction()),
    ]
    if path.kind == "vp":  # v's weight is stated for alpha**2 + sigma**2 = 1
        pairs.append((VWeighting(), V()))
    for weighting, prediction in pairs:
        assert_close(
            weights(weighting, prediction, path, t), weights(PlainWeighting(), prediction, path, t), rtol=1e-11, atol=0
        )


def test_v_on_the_cosine_and_flow_have_one_objective() -> None:
    # Uniform times have density 1 / |lambda'| in lambda: w = p W = (2/pi) e**lambda for v, e**lambda for flow,
    # here on |D - x0|**2 (times e**(-2 lambda) on the eps loss).
    def objective(path: PathPart, prediction: PredictionPart) -> Tensor:
        t = path.t_of(LAMBDA)
        return weights(PlainWeighting(), prediction, path, t) / path.d_half_log_snr(t).abs()

    cosine, flow = objective(VP(schedule="plain_cosine"), V()), objective(Flow(), FlowVelocity())
    assert_close(flow, LAMBDA.exp(), rtol=1e-12, atol=0)
    assert_close(cosine / flow, torch.full_like(LAMBDA, 2 / math.pi), rtol=1e-12, atol=0)


def test_eps_on_the_cosine_is_a_hyperbolic_secant() -> None:
    path = VP(schedule="plain_cosine")
    t = path.t_of(LAMBDA)
    on_eps = weights(PlainWeighting(), Eps(), path, t) / SNR / path.d_half_log_snr(t).abs()
    assert_close(on_eps, 1 / (math.pi * LAMBDA.cosh()), rtol=1e-11, atol=0)


def test_edm_is_a_bell_around_its_mean() -> None:
    # EDM's objective on the eps loss: N(lambda; 1.2, 1.2**2) (1 + e**(-2 lambda) / sigma_data**2).
    path, levels, lam = EDM(), LogNormal(), LAMBDA.clone().requires_grad_()
    (minus_density,) = torch.autograd.grad(levels.cdf(path.t_of(lam), path).sum(), lam)
    t = path.t_of(LAMBDA)
    found = -minus_density * weights(PlainWeighting(), EDMPrediction(), path, t) / SNR
    normal = torch.exp(-0.5 * ((LAMBDA - 1.2) / 1.2) ** 2) / (1.2 * math.sqrt(2 * math.pi))
    assert_close(found, normal * (1 + 1 / (SNR * SIGMA_DATA**2)), rtol=1e-8, atol=1e-12)


def test_min_snr_in_its_three_published_forms(vp: PathPart, times: Times) -> None:
    # hang2023minsnr: min(SNR, gamma) on the x0 loss, over SNR on the eps loss, over SNR + 1 on the v loss.
    t, gamma = times(vp), 5.0
    snr = (2 * vp.half_log_snr(t)).exp()
    capped = torch.minimum(snr, torch.tensor(gamma))
    for prediction, expected in ((X0(), capped), (Eps(), capped / snr), (V(), capped / (snr + 1))):
        on_target = weights(MinSNR(gamma=gamma), prediction, vp, t) * c_out(prediction, vp, t) ** 2
        assert_close(on_target, expected, rtol=1e-11, atol=0)


def test_soft_min_snr_lies_below_and_has_the_same_ends() -> None:
    hard, soft = MinSNR().of(LAMBDA, UNUSED), MinSNR(soft=True).of(LAMBDA, UNUSED)
    assert (soft < hard).all()
    assert_close(soft, SNR * 5 / (SNR + 5), rtol=1e-12, atol=0)
    assert_close(soft[[0, -1]], hard[[0, -1]], rtol=1e-4, atol=0)


def test_weightings_on_the_eps_loss_are_those_of_the_papers() -> None:
    log_snr = 2 * LAMBDA  # what the papers call lambda
    published: dict[WeightingPart, Tensor] = {
        P2(): 1 / (1 + SNR),
        P2(k=2.0, gamma=0.5): (2 + SNR) ** -0.5,
        P2(gamma=0.0): torch.ones_like(SNR),
        SigmoidWeighting(): 1 / (1 + torch.exp(log_snr - 2)),
        SigmoidWeighting(bias=-1.0): 1 / (1 + torch.exp(log_snr + 1)),
        TruncatedSNR(): torch.maximum(SNR, torch.tensor(1.0)) / SNR,
        VWeighting(): (1 + SNR) / SNR,
        EpsWeighting(): torch.ones_like(SNR),
        X0Weighting(): 1 / SNR,
    }
    for weighting, expected in published.items():
        assert_close(weighting.of(LAMBDA, UNUSED) / SNR, expected, rtol=1e-12, atol=0, msg=repr(weighting))
