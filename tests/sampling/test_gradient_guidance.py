"""Guidance by a classifier and by any loss: right against closed forms, each sample for itself, weights left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.randomness import Draws
from suffuse.models.conditioner import ClassLabel
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.exact import ExactMixture
from suffuse.networks import MLP
from suffuse.process import EDM, VP, Flow, PathPart, V
from suffuse.sampling import (
    APG,
    CFG,
    DDIM,
    CFGPlusPlus,
    ClassifierGuidance,
    DPMSolverPP,
    Estimate,
    GuidancePart,
    Heun,
    Karras,
    Uniform,
    UniversalGuidance,
    sample,
)

LABELS = torch.tensor([0, 1, 2, 2, 1])
COND = Conditions.of(label=LABELS)
X = 2 * Draws(0, torch.arange(5)).normal("start", (1,)).double()
TARGET = 1.3

Estimates = Callable[[Tensor, float, Conditions | None, Call], Estimate]


def _estimates(model: ExactMixture) -> Estimates:
    return lambda x, t, cond, call: Estimate(model.denoise(x, t, cond, call))


def _time(path: PathPart, half_log_snr: float) -> float:
    return path.t_of(torch.tensor(half_log_snr, dtype=torch.float64)).item()


def _posterior(model: ExactMixture) -> Callable[[Tensor, float, Conditions | None], Tensor]:
    """log p(label | x_t) up to a constant, from the densities."""
    return lambda x, t, cond: model.log_prob(x, t, cond) - model.log_prob(x, t)


def _miss(x0: Tensor, cond: Conditions | None) -> Tensor:
    return 0.5 * (x0 - TARGET).flatten(1).square().sum(1)


def _network() -> Denoiser:
    network = MLP(width=8, zero_init=False)
    return ModelConfig(
        shape=(3,), network=network, path=VP(), prediction=V(), conditioner=ClassLabel(classes=4)
    ).build()


@pytest.mark.parametrize("scale", [0.7, 1.0, 3.5])
def test_the_exact_classifier_s_guidance_is_classifier_free(
    path: PathPart, scale: float, mixture: Callable[[PathPart], ExactMixture]
) -> None:
    model = mixture(path)
    part = ClassifierGuidance(scale=scale, classifier=_posterior(model), inner=CFG(scale=0.0))
    for half_log_snr in (-1.5, 0.2, 2.0):
        t = _time(path, half_log_snr)
        found = part.bind(_estimates(model), path)(X, t, COND, Call())
        expected = CFG(scale=scale).bind(_estimates(model), path)(X, t, COND, Call())
        torch.testing.assert_close(found.x0, expected.x0, rtol=1e-10, atol=1e-10)
        assert found.backward == 1


def test_a_classifier_guides_whole_trajectories(mixture: Callable[[PathPart], ExactMixture]) -> None:
    model = mixture(EDM())
    options: dict[str, Any] = {"shape": (1,), "solver": Heun(), "grid": Karras(steps=8), "cond": COND, "batch": 3}
    found = sample(
        model,
        5,
        guidance=ClassifierGuidance(scale=2.0, classifier=_posterior(model), inner=CFG(scale=0.0)),
        dtype=torch.float64,
        **options,
    )
    free = sample(model, 5, guidance=CFG(scale=2.0), dtype=torch.float64, **options)
    torch.testing.assert_close(found.x, free.x, rtol=1e-8, atol=1e-8)
    assert (found.nfe, found.backward, free.nfe) == (15, 15, 30)


def test_the_forward_part_is_the_gradient_through_the_model(
    path: PathPart, gaussian: Callable[[PathPart], ExactMixture]
) -> None:
    model, t = gaussian(path), _time(path, 0.4)
    level, d = path.level(t), gaussian(path).denoise(X, _time(path, 0.4))
    alpha, sigma = float(level.alpha), float(level.sigma)
    rate = alpha * 0.4**2 / ((alpha * 0.4) ** 2 + sigma**2)  # of D in x
    found = UniversalGuidance(scale=0.6, loss=_miss).bind(_estimates(model), path)(X, t, None, Call())
    expected = d - 0.6 * sigma**2 / alpha * rate * (d - TARGET)
    torch.testing.assert_close(found.x0, expected, rtol=1e-12, atol=1e-12)
    assert found.backward == 1


def test_the_backward_part_descends_from_the_estimate(
    path: PathPart, gaussian: Callable[[PathPart], ExactMixture]
) -> None:
    model, t = gaussian(path), _time(path, 0.4)
    alone = UniversalGuidance(scale=0.0, steps=3, step_size=0.2, loss=_miss).bind(_estimates(model), path)
    d = model.denoise(X, t)
    found = alone(X, t, None, Call())
    torch.testing.assert_close(found.x0, TARGET + 0.8**3 * (d - TARGET), rtol=1e-12, atol=1e-12)
    assert found.backward == 3
    both = UniversalGuidance(scale=0.6, steps=3, step_size=0.2, loss=_miss).bind(_estimates(model), path)
    forward = UniversalGuidance(scale=0.6, loss=_miss).bind(_estimates(model), path)
    together = both(X, t, None, Call())
    torch.testing.assert_close(together.x0, forward(X, t, None, Call()).x0 + found.x0 - d, rtol=1e-12, atol=1e-12)
    assert together.backward == 4


def test_a_gradient_goes_through_the_guidance_inside(mixture: Callable[[PathPart], ExactMixture]) -> None:
    model, path, t = mixture(EDM()), EDM(), 0.8
    part = UniversalGuidance(scale=0.3, loss=_miss, inner=CFG(scale=2.0))
    found = part.bind(_estimates(model), path)(X, t, COND, Call())

    def guided(x: Tensor) -> Tensor:
        uncond = model.denoise(x, t)
        return uncond + 2.0 * (model.denoise(x, t, COND) - uncond)

    h = 1e-5
    slope = (_miss(guided(X + h), None) - _miss(guided(X - h), None)) / (2 * h)
    torch.testing.assert_close(found.x0, guided(X) - 0.3 * t**2 * slope[:, None], rtol=1e-8, atol=1e-8)
    assert found.backward == 2, "both halves are gone through"
    assert part.most_evaluations == 2


def test_samples_are_guided_each_for_itself(mixture: Callable[[PathPart], ExactMixture]) -> None:
    model, targets = mixture(VP()), torch.linspace(-2, 2, 6)[:, None]

    def towards(x0: Tensor, cond: Conditions | None) -> Tensor:
        assert cond is not None
        return (x0 - cond.values["target"]).square().sum(1)

    part = UniversalGuidance(scale=0.5, steps=2, step_size=0.1, loss=towards, inner=APG(scale=2.0, momentum=-0.5))
    cond = Conditions.of(label=torch.tensor([0, 1, 2, 1, 0, 2]), target=targets)
    options: dict[str, Any] = {"shape": (1,), "solver": DPMSolverPP(), "grid": Uniform(steps=8), "cond": cond}
    whole, parts, free = (
        sample(model, 6, guidance=guidance, batch=batch, **options).x
        for guidance, batch in ((part, 6), (part, 2), (part.inner, 6))
    )
    torch.testing.assert_close(whole, parts)
    assert (whole - targets).abs().mean() < 0.7 * (free - targets).abs().mean()


@pytest.mark.parametrize(
    "part",
    [
        ClassifierGuidance(scale=0.0, classifier=lambda x, t, cond: x[:, 0]),
        UniversalGuidance(scale=0.0, loss=_miss),
        UniversalGuidance(scale=2.0, loss=_miss, above=1e6),
    ],
    ids=["classifier", "universal", "outside"],
)
def test_without_scale_or_outside_the_interval_there_is_no_gradient(
    part: GuidancePart, mixture: Callable[[PathPart], ExactMixture]
) -> None:
    options: dict[str, Any] = {"shape": (1,), "solver": DDIM(), "grid": Karras(steps=5)}
    plain, found = (sample(mixture(EDM()), 5, guidance=guidance, **options) for guidance in (None, part))
    assert torch.equal(plain.x, found.x)
    assert (found.nfe, found.backward) == (5, 0)


def test_gradients_reach_no_weights() -> None:
    model, weight = _network(), nn.Parameter(Draws(0, torch.arange(3)).normal("start", (4,)))
    parameters = [*model.parameters(), weight]
    parameters[0].requires_grad_(requires_grad=False)
    wanted = [p.requires_grad for p in parameters]

    def log_probs(x: Tensor, t: float, cond: Conditions | None) -> Tensor:
        assert cond is not None
        return (x @ weight).log_softmax(1).gather(1, cond.values["label"][:, None])[:, 0]

    cond = Conditions.of(label=torch.arange(4))
    universal = UniversalGuidance(scale=0.2, steps=1, loss=_miss, inner=CFG(scale=1.5))
    for part in (ClassifierGuidance(classifier=log_probs), universal):
        made = sample(model, 4, guidance=part, cond=cond, solver=DDIM(), grid=Uniform(steps=3))
        assert made.x.isfinite().all()
        assert not made.x.requires_grad
    assert [p.requires_grad for p in parameters] == wanted
    assert all(p.grad is None for p in parameters)
    assert made.backward == 3 * 3


def test_pure_noise_is_left_out_or_refused(mixture: Callable[[PathPart], ExactMixture]) -> None:
    model = mixture(Flow())
    options: dict[str, Any] = {"shape": (1,), "solver": DDIM(), "grid": Uniform(steps=4)}
    for part in (
        ClassifierGuidance(classifier=lambda x, t, cond: -x[:, 0].square()),
        UniversalGuidance(loss=_miss),
    ):
        with pytest.raises(UsageError, match="divides by alpha, which is 0 at time 1; set its up_to to a finite"):
            sample(model, 5, guidance=part, **options)
        assert sample(model, 5, guidance=part.replace(up_to=1e3), **options).backward == 3


def test_mistakes_are_told() -> None:
    model = _network()

    def refused(message: str, **fields: Any) -> None:
        with pytest.raises(UsageError, match=message):
            sample(model, 4, guidance=UniversalGuidance(**fields))

    refused(r"the loss gave shape \(\) for 4 samples; give one number for each", loss=lambda x0, cond: x0.sum())
    refused("the loss gave values without a gradient", loss=lambda x0, cond: x0.detach().sum(1))
    for inner in (CFGPlusPlus(), UniversalGuidance(loss=_miss)):
        with pytest.raises(
            UsageError, match=rf"inner guidance '{inner.kind}' gives more than an estimate.*use cfg, apg"
        ):
            parse(UniversalGuidance, {"loss": _miss, "inner": inner})
    with pytest.raises(UsageError, match="did you mean 'cfg'"):
        parse(UniversalGuidance, {"loss": _miss, "inner": {"kind": "cfgg"}})
