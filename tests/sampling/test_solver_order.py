"""Orders of convergence of every solver in the joint's table, measured against the declared ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from suffuse.claims.exact.trajectories import error, slope, three_normals, trajectory, variance_error
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, PathPart
from suffuse.sampling import DDIM, DDPM, SolverPart

# Declared orders are whole numbers; at 20 steps and more the next term of the error still bends slopes by up to this.
SLACK = 0.2
FEW = (20, 40, 80)
# High orders show later, and the one bad local error of a first step of order 1 later still.
MORE, MOST = (160, 320), (320, 640)
NODES = MOST[-1]


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return trajectory("three", 0, NODES, 4)


def test_order_with_own_start(deterministic: SolverPart, path: PathPart, truth: Tensor) -> None:
    counts = FEW if deterministic.interior <= 2 else MOST
    errors = [error(deterministic, three_normals(path), truth, steps) for steps in counts]
    # A start of lower order may not show yet: then the order of the interior does.
    assert deterministic.convergence - SLACK < slope(counts, errors) < deterministic.interior + SLACK, errors


def test_order_with_exact_memory(deterministic: SolverPart, truth: Tensor) -> None:
    # A quarter of the way in the half log-SNR, so that all numbers of steps start at the same noise level.
    counts = FEW if deterministic.interior <= 2 else MORE
    errors = [error(deterministic, three_normals(EDM()), truth, steps, warm=steps // 4) for steps in counts]
    assert slope(counts, errors) == pytest.approx(deterministic.interior, abs=SLACK), errors


def test_weak_order_of_stochastic_solvers(
    stochastic: SolverPart, path: PathPart, gaussian: Callable[[PathPart], ExactMixture]
) -> None:
    model, counts, errors = gaussian(path), (40, 80, 160), []
    for steps in counts:
        mean, error = variance_error(stochastic, model, steps)
        assert mean == pytest.approx(0, abs=1e-13)
        errors.append(abs(error))
    # The leading errors of mean steps and noise may cancel for a while.
    assert stochastic.convergence - SLACK < slope(counts, errors) < stochastic.convergence + 1, errors


@pytest.mark.parametrize(
    ("first_order", "expected"),
    [
        (DDIM(eta=0.0), (-0.26, -0.14, -0.071, -0.036, -0.018)),
        (DDIM(eta=1.0), (-0.41, -0.24, -0.13, -0.070, -0.036)),
        (DDPM(variance="small"), (-0.41, -0.24, -0.13, -0.070, -0.036)),
    ],
)
def test_variance_on_gaussian_data(
    first_order: SolverPart, expected: tuple[float, ...], gaussian: Callable[[PathPart], ExactMixture]
) -> None:
    # Figures of an independent 2x2 matrix recursion over (x, last x0), for 10, 20, ..., 160 steps, to two digits.
    errors = [variance_error(first_order, gaussian(EDM()), 10 * 2**k)[1] for k in range(5)]
    assert errors == pytest.approx(expected, rel=0.04)
