"""Exact low-rank mixtures against outside truths: autograd, torch's own Gaussians, and the limits of little noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.data import GaussianMixture, LowRankMixture
from suffuse.models.exact import ExactMixture, ExactModel
from suffuse.models.exact_low_rank import ExactLowRank
from suffuse.process import EDM, VP, Flow, PathPart, perturb, score_of

PATHS = [EDM(), VP(), VP(steps=1000), Flow()]
DATA = LowRankMixture(ambient=6, rank=2, components=3, weights=(0.2, 0.5, 0.3), stds=(1.5, 0.4))
LAMBDAS = torch.tensor([-2.0, -0.5, 0.5, 1.5, 3.0], dtype=torch.float64)
each_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{p.kind}-{p.indices}")


def _model(path: PathPart, data: LowRankMixture = DATA) -> ExactLowRank:
    return ExactLowRank(path, *data.parameters())


def _noisy(path: PathPart, t: Tensor, data: LowRankMixture = DATA) -> Tensor:
    x0, eps = data.sample(len(t), 1).double(), Draws(0, torch.arange(len(t))).normal("eps", (data.ambient,)).double()
    return perturb(path, x0, eps, t)


@each_path
@pytest.mark.parametrize("labelled", [False, True])
def test_estimate_is_the_score_of_the_density(path: PathPart, labelled: bool) -> None:
    model, t = _model(path), path.t_of(LAMBDAS)
    x = _noisy(path, t).requires_grad_()
    cond = Conditions.of(label=torch.tensor([0, 1, 2, 1, 0])) if labelled else None
    (score,) = torch.autograd.grad(model.log_prob(x, t, cond).sum(), x)
    denoised = model.denoise(x.detach(), t, cond)
    torch.testing.assert_close(score_of(x.detach(), denoised, path.level(t, x)), score, rtol=1e-8, atol=1e-8)


@each_path
def test_log_density_is_torchs_mixture_of_full_covariances(path: PathPart) -> None:
    weights, bases, stds = DATA.parameters()
    t = path.t_of(LAMBDAS[3]).item()
    x, level = _noisy(path, torch.full((40,), t, dtype=torch.float64)), path.level(t)
    covariance = (level.alpha * bases * stds) @ (level.alpha * bases * stds).mT + level.sigma**2 * torch.eye(
        6, dtype=torch.float64
    )
    components = torch.distributions.MultivariateNormal(torch.zeros(3, 6, dtype=torch.float64), covariance)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), components)
    torch.testing.assert_close(_model(path).log_prob(x, t), mixture.log_prob(x), rtol=1e-10, atol=1e-10)


@each_path
def test_one_subspace_has_a_closed_form(path: PathPart) -> None:
    data = LowRankMixture(ambient=9, rank=4, components=1)
    t = path.t_of(LAMBDAS)
    x, level = _noisy(path, t, data), path.level(t, torch.empty(5, 9, dtype=torch.float64))
    basis = data.parameters()[1][0]
    closed = level.alpha / (level.alpha**2 + level.sigma**2) * (x @ basis @ basis.T)
    torch.testing.assert_close(_model(path, data).denoise(x, t), closed, rtol=1e-12, atol=1e-12)


def test_at_little_noise_points_of_the_support_stay() -> None:
    x0 = DATA.sample(50, 0).double()
    error = [(_model(EDM()).denoise(x0, sigma) - x0).norm(dim=1).max().item() for sigma in (1e-1, 1e-2, 1e-3)]
    assert error[0] > error[1] > error[2]
    assert error[2] < 1e-4  # (sigma / 0.4)**2 |x0|
    # One point of a subspace and a mere rounding error beside it: no cancellation tells them wrong.
    assert _model(EDM()).log_prob(x0, 1e-6).isfinite().all()


def test_jacobian_is_symmetric_and_of_the_subspaces_rank() -> None:
    data = LowRankMixture(ambient=12, rank=3, components=2)
    x = data.sample(1, 0).double()
    jacobian = torch.autograd.functional.jacobian(lambda y: _model(EDM(), data).denoise(y, 0.05)[0], x)[:, 0]
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-8)
    singular = torch.linalg.svdvals(jacobian)
    assert singular[2] > 0.9
    assert singular[3] < 1e-3


def _exact_models() -> list[ExactModel]:
    path = VP(steps=1000)
    return [_model(path), ExactMixture(path, *GaussianMixture().parameters())]


@pytest.mark.parametrize("model", _exact_models(), ids=["low rank", "mixture"])
def test_many_times_at_once_are_those_one_by_one(model: ExactModel) -> None:
    width, times = (6 if isinstance(model, ExactLowRank) else 2), torch.tensor([0.0, 7.0, 300.5], dtype=torch.float64)
    draws = Draws(3, torch.arange(8))
    x, factors = draws.normal("x", (width,)).double(), draws.normal("factors", (3,)).double()
    cond = Conditions.of(label=torch.arange(8) % 3).drop(torch.arange(8) % 2 == 0)
    for given in (None, cond):
        one_by_one = torch.stack([model.log_prob(x, t, given) for t in times.tolist()], 1)
        torch.testing.assert_close(model.log_probs(x, times, given), one_by_one, rtol=1e-11, atol=1e-11)
        total = sum(factors[:, [k]] * model.denoise(x, t, given) for k, t in enumerate(times.tolist()))
        torch.testing.assert_close(model.combine(x, times, factors, given), total, rtol=1e-10, atol=1e-10)


def test_float32_samples_are_estimated_in_float64() -> None:
    x = _noisy(VP(), torch.full((20,), 0.1, dtype=torch.float64)).float()
    rounded = _model(VP()).denoise(x, 0.1)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, _model(VP()).denoise(x.double(), 0.1).float())


def test_wrong_arguments_say_what_would_be_right() -> None:
    weights, bases, stds = DATA.parameters()
    for arguments, message in [
        ((weights[:2], bases), "for 2 weights"),
        ((weights, 1.1 * bases), "0.21 from orthonormal"),
        ((weights, bases, torch.ones(3, 1)), r"\(2,\) or \(3, 2\)"),
    ]:
        with pytest.raises(UsageError, match=message):
            ExactLowRank(VP(), *arguments)
    with pytest.raises(UsageError, match="no density without noise"):
        ExactLowRank(VP(steps=1000), weights, bases, stds).denoise(torch.zeros(2, 6), -1.0)
