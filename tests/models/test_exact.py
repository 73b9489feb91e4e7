"""Exact mixtures against outside truths: the gradient of the log density, quadrature, and torch's own mixtures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from suffuse.base.conditions import Conditions
from suffuse.base.randomness import Draws
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, VP, Flow, PathPart, TrigonometricPath, score_of

PATHS = [EDM(), VP(), VP(steps=1000), Flow(), TrigonometricPath(sigma_data=0.7)]
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[-1.0, 0.5], [2.0, 0.0], [0.3, -1.5]], dtype=torch.float64)
STDS = torch.tensor([0.4, 0.2, 0.7], dtype=torch.float64)
LAMBDAS = torch.tensor([-2.5, -1.0, 0.0, 0.8, 2.0], dtype=torch.float64)


def _points(n: int, width: int = 2) -> Tensor:
    return 1.5 * Draws(0, torch.arange(n)).normal("points", (width,)).double()


@pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{p.kind}-{p.indices}")
@pytest.mark.parametrize("labelled", [False, True])
def test_estimate_is_the_score_of_the_density(path: PathPart, labelled: bool) -> None:
    model = ExactMixture(path, WEIGHTS, MEANS, STDS)
    x, t = _points(5).requires_grad_(), path.t_of(LAMBDAS)
    cond = Conditions.of(label=torch.tensor([0, 1, 2, 1, 0])) if labelled else None
    (score,) = torch.autograd.grad(model.log_prob(x, t, cond).sum(), x)
    denoised = model.denoise(x.detach(), t, cond)
    torch.testing.assert_close(score_of(x.detach(), denoised, path.level(t, x)), score, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{p.kind}-{p.indices}")
def test_log_density_is_torchs_mixture(path: PathPart) -> None:
    model, x, t = ExactMixture(path, WEIGHTS, MEANS, STDS), _points(50), path.t_of(LAMBDAS[1]).item()
    level = path.level(t)
    std = ((level.alpha * STDS) ** 2 + level.sigma**2).sqrt()
    components = torch.distributions.Normal(level.alpha * MEANS, std[:, None].expand(-1, 2))
    expected = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(WEIGHTS), torch.distributions.Independent(components, 1)
    ).log_prob(x)
    torch.testing.assert_close(model.log_prob(x, t), expected, rtol=1e-10, atol=1e-10)
    label = Conditions.of(label=torch.full((50,), 2))
    chosen = components.log_prob(x[:, None]).sum(-1)[:, 2]
    torch.testing.assert_close(model.log_prob(x, t, label), chosen, rtol=1e-10, atol=1e-10)


def test_estimate_is_the_posterior_mean_by_quadrature() -> None:
    model = ExactMixture(Flow(), WEIGHTS, MEANS[:, :1], STDS)
    x, t = _points(20, 1), 0.4
    # Trapezoid over [-8, 8] with smooth integrands that vanish at the ends: exact to rounding.
    x0 = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    prior = (WEIGHTS * torch.distributions.Normal(MEANS[:, 0], STDS).log_prob(x0[:, None]).exp()).sum(1)
    joint = prior * torch.exp(-0.5 * ((x - 0.6 * x0) / 0.4) ** 2)
    torch.testing.assert_close(model.denoise(x, t)[:, 0], (joint * x0).sum(1) / joint.sum(1), rtol=1e-10, atol=1e-10)


def test_a_point_attracts_everything_and_points_share_it() -> None:
    point = ExactMixture(EDM(), torch.ones(1), MEANS[:1], torch.zeros(1))
    assert torch.equal(point.denoise(100 * _points(4), 0.01), MEANS[:1].expand(4, -1))
    points = ExactMixture(EDM(), torch.full((3,), 1 / 3), MEANS, torch.zeros(3))
    x = _points(40)
    weights = (-(torch.cdist(x, MEANS) ** 2) / (2 * 0.8**2)).softmax(1)
    torch.testing.assert_close(points.denoise(x, 0.8), weights @ MEANS, rtol=1e-8, atol=1e-8)
    # At little noise the nearest point takes all.
    assert torch.equal(points.denoise(x, 0.01), MEANS[torch.cdist(x, MEANS).argmin(1)])


def test_conditions_are_read_sample_by_sample() -> None:
    model, x = ExactMixture(VP(), WEIGHTS, MEANS, STDS), _points(4)
    labels = torch.tensor([0, 2, 1, 0])
    some = Conditions.of(label=labels).drop(torch.tensor([True, False, False, True]))
    mixed = model.denoise(x, 0.5, some)
    assert torch.equal(mixed[[0, 3]], model.denoise(x, 0.5)[[0, 3]])
    assert torch.equal(mixed[[1, 2]], model.denoise(x, 0.5, Conditions.of(label=labels))[[1, 2]])
    assert not torch.allclose(mixed[1], model.denoise(x, 0.5)[1])


def test_one_time_or_a_time_for_each_sample() -> None:
    model, x = ExactMixture(VP(steps=1000), WEIGHTS, MEANS, STDS), _points(3)
    times = torch.tensor([3.0, 420.5, 999.0])
    each = torch.cat([model.denoise(x[k : k + 1], t) for k, t in enumerate(times.tolist())])
    assert torch.equal(model.denoise(x, times), each)


def test_float32_samples_are_estimated_in_float64() -> None:
    model, x = ExactMixture(EDM(), WEIGHTS, MEANS, STDS), _points(30).float()
    rounded = model.denoise(x, 0.05)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, model.denoise(x.double(), 0.05).float())
