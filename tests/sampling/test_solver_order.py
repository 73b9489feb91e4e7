"""Orders of convergence of every solver in the joint's table, measured against the declared ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, PathPart
from suffuse.sampling import DDIM, DDPM, Estimate, SolverPart

# Declared orders are whole numbers; at 20 steps and more the next term of the error still bends slopes by up to this.
SLACK = 0.2
FEW = (20, 40, 80)
# High orders show later, and the one bad local error of a first step of order 1 later still.
MORE, MOST = (160, 320), (320, 640)
NODES = MOST[-1]
FROM, TO = -3.0, 3.0


@pytest.fixture(scope="module")
def trajectory(mixture: Callable[[PathPart], ExactMixture]) -> Tensor:
    """x / alpha along the probability-flow ODE at 641 evenly spaced half log-SNRs, (641, B, 1), on every path.

    Classical Runge-Kutta on y = x / sigma, dy/dlambda = exp(lambda) x0, with 4 substeps: right to 1e-10.
    """
    model, substeps = mixture(EDM()), 4
    h = (TO - FROM) / (NODES * substeps)

    def slope(lam: float, y: Tensor) -> Tensor:
        rho = math.exp(-lam)
        return model.denoise(rho * y, rho) / rho

    y = Draws(0, torch.arange(64)).normal("start", (1,)).double()
    nodes = [math.exp(-FROM) * y]
    for k in range(NODES * substeps):
        lam = FROM + k * h
        a = slope(lam, y)
        b = slope(lam + h / 2, y + h / 2 * a)
        c = slope(lam + h / 2, y + h / 2 * b)
        y = y + h / 6 * (a + 2 * b + 2 * c + slope(lam + h, y + h * c))
        if (k + 1) % substeps == 0:
            nodes.append(math.exp(-(lam + h)) * y)
    return torch.stack(nodes)


def _error(solver: SolverPart, model: ExactMixture, trajectory: Tensor, steps: int, warm: int) -> float:
    """RMS error at the end when the first `warm` steps are taken from the exact solution, which fills the memory."""
    path = model.path
    lam = torch.linspace(FROM, TO, steps + 1, dtype=torch.float64)
    times = path.t_of(lam)
    exact = path.alpha(times)[:, None, None] * trajectory[:: NODES // steps]
    noise = Draws(0, torch.arange(exact.shape[1]))
    x, state = exact[0], solver.init(exact[0], times.tolist(), path)
    for i in range(steps):
        start = exact[i] if i <= warm else x
        x, state = solver.step(
            lambda x, t, substep=0, target=None: Estimate(model.denoise(x, t)), start, state, i, noise.at(i)
        )
    return (x - exact[-1]).square().mean().sqrt().item()


def _slope(errors: list[float]) -> float:
    """Least-squares slope of log error against log step width, for numbers of steps that double."""
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


def test_order_with_own_start(
    deterministic: SolverPart,
    path: PathPart,
    mixture: Callable[[PathPart], ExactMixture],
    trajectory: Tensor,
) -> None:
    counts = FEW if deterministic.interior <= 2 else MOST
    errors = [_error(deterministic, mixture(path), trajectory, steps, warm=0) for steps in counts]
    # A start of lower order may not show yet: then the order of the interior does.
    assert deterministic.convergence - SLACK < _slope(errors) < deterministic.interior + SLACK, errors


def test_order_with_exact_memory(
    deterministic: SolverPart,
    mixture: Callable[[PathPart], ExactMixture],
    trajectory: Tensor,
) -> None:
    # A quarter of the way in the half log-SNR, so that all numbers of steps start at the same noise level.
    counts = FEW if deterministic.interior <= 2 else MORE
    errors = [_error(deterministic, mixture(EDM()), trajectory, steps, warm=steps // 4) for steps in counts]
    assert _slope(errors) == pytest.approx(deterministic.interior, abs=SLACK), errors


def test_weak_order_of_stochastic_solvers(
    stochastic: SolverPart,
    path: PathPart,
    gaussian: Callable[[PathPart], ExactMixture],
    moments: Callable[..., tuple[float, float]],
) -> None:
    model, errors = gaussian(path), []
    for steps in (40, 80, 160):
        mean, error = _gaussian_error(stochastic, model, steps, moments)
        assert mean == pytest.approx(0, abs=1e-13)
        errors.append(abs(error))
    # The leading errors of mean steps and noise may cancel for a while.
    assert stochastic.convergence - SLACK < _slope(errors) < stochastic.convergence + 1, errors


@pytest.mark.parametrize(
    ("first_order", "expected"),
    [
        (DDIM(eta=0.0), (-0.26, -0.14, -0.071, -0.036, -0.018)),
        (DDIM(eta=1.0), (-0.41, -0.24, -0.13, -0.070, -0.036)),
        (DDPM(variance="small"), (-0.41, -0.24, -0.13, -0.070, -0.036)),
    ],
)
def test_variance_on_gaussian_data(
    first_order: SolverPart,
    expected: tuple[float, ...],
    gaussian: Callable[[PathPart], ExactMixture],
    moments: Callable[..., tuple[float, float]],
) -> None:
    # Figures of an independent 2x2 matrix recursion over (x, last x0), for 10, 20, ..., 160 steps, to two digits.
    errors = [_gaussian_error(first_order, gaussian(EDM()), 10 * 2**k, moments)[1] for k in range(5)]
    assert errors == pytest.approx(expected, rel=0.04)


def _gaussian_error(
    solver: SolverPart, model: ExactMixture, steps: int, moments: Callable[..., tuple[float, float]]
) -> tuple[float, float]:
    """Error of the mean, and relative error of the variance, from the exact marginal at FROM to the one at TO."""
    path = model.path
    times = path.t_of(torch.linspace(FROM, TO, steps + 1, dtype=torch.float64)).tolist()
    (mean_in, variance_in), (mean_out, variance_out) = (_marginal(model, t) for t in (times[0], times[-1]))
    mean, variance = moments(solver, model, times, mean_in, math.sqrt(variance_in))
    return mean - mean_out, variance / variance_out - 1


def _marginal(model: ExactMixture, t: float) -> tuple[float, float]:
    """Mean and variance of noisy Gaussian data."""
    level = model.path.level(t)
    mean, std = model.means.item(), model.stds.item()
    return level.alpha * mean, (level.alpha * std) ** 2 + level.sigma**2
