"""Samples of exact densities have the density's moments, and the loop's noise is what the recursion assumes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, VP, Flow, PathPart
from suffuse.sampling import DDIM, DDPM, DPMSolverPP, GridPart, Karras, SolverPart, Uniform, sample

WEIGHTS, STD = torch.tensor([0.5, 0.3, 0.2]), 0.3
MEANS = torch.tensor([[-1.0, -1.0], [2.0, 0.0], [0.0, 2.5]])


def _assert_moments(solver: SolverPart, path: PathPart, grid: GridPart) -> None:
    model, n = ExactMixture(path, WEIGHTS, MEANS, torch.full((3,), STD)), 2000
    x = sample(model, n, shape=(2,), solver=solver, grid=grid, seed=5, batch=n).x
    assert torch.isfinite(x).all()
    nearest = torch.cdist(x, MEANS).argmin(1)
    for k, weight in enumerate(WEIGHTS.tolist()):
        mode = x[nearest == k]
        # Four standard errors of a share and of a mean, and a percent for the steps' own error.
        assert len(mode) / n == pytest.approx(weight, abs=4 * math.sqrt(weight * (1 - weight) / n) + 0.01)
        assert (mode.mean(0) - MEANS[k]).abs().max() < 4 * STD / math.sqrt(len(mode)) + 0.02
        # First-order steps make the modes too narrow by about half the last steps' width in log-SNR.
        assert mode.std(0).tolist() == pytest.approx([STD, STD], rel=0.15)


def test_every_solver_samples_the_density_on_edm(solver: SolverPart) -> None:
    _assert_moments(solver, EDM(), Karras(steps=80, sigma_max=20))


def test_every_solver_samples_the_density_on_flow(in_time: SolverPart) -> None:
    _assert_moments(in_time, Flow(), Uniform(steps=40))


@pytest.mark.parametrize("fast", [DPMSolverPP(), DDIM(), DDPM()], ids=lambda s: s.kind)
def test_a_table_is_sampled(fast: SolverPart) -> None:
    _assert_moments(fast, VP(steps=1000), Uniform(steps=50 if fast == DPMSolverPP() else 200))


@pytest.mark.parametrize("noisy", [DDIM(eta=0.5), DDPM(), DDPM(variance="large")], ids=str)
def test_the_recursion_is_what_sampling_does(
    noisy: SolverPart,
    gaussian: Callable[[PathPart], ExactMixture],
    moments: Callable[..., tuple[float, float]],
) -> None:
    path, n = EDM(), 200_000
    grid = Karras(steps=8, sigma_max=5, end="t_min")
    x = sample(gaussian(path), n, shape=(1,), solver=noisy, grid=grid, seed=1, batch=n, dtype=torch.float64).x
    mean, variance = moments(noisy, gaussian(path), grid.times(path), 0.0, 5.0)
    # Four standard errors of the mean and the variance of a Gaussian.
    assert x.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
    assert x.var().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / n))
