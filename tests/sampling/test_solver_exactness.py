"""Data estimates that are polynomials in the half log-SNR: which solvers integrate them exactly, and which do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.process import VP, Level
from suffuse.sampling import DPMSolverPP, Estimate, SASolver, SolverPart, UniPC

PATH = VP()
# Uneven, so that no error cancels.
NODES = PATH.t_of(torch.tensor([-2.0, -1.4, -1.1, -0.3, 0.4], dtype=torch.float64)).tolist()
POLYNOMIALS = {0: (0.7,), 1: (0.7, -0.4), 2: (0.7, -0.4, 0.9)}


class _Silent(Draws):
    """No noise: the mean of a stochastic step."""

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros((len(self), *shape), dtype=torch.float64)


def _at(degree: int, lam: float) -> float:
    return sum(c * lam**power for power, c in enumerate(POLYNOMIALS[degree]))


def _truth(degree: int, x: float, here: Level, there: Level, *, sde: bool) -> float:
    """The step's exact mean by quadrature: variation of constants, with the noise that an SDE forgets."""
    start, end = float(here.half_log_snr), float(there.half_log_snr)
    forgets = 1.0 if sde else 0.0
    rate = 1 + forgets
    points, weights = np.polynomial.legendre.leggauss(40)
    lam = start + (points + 1) / 2 * (end - start)
    integral = sum(w * math.exp(rate * (at - end)) * _at(degree, at) for w, at in zip(weights, lam, strict=True))
    kept = float(there.sigma / here.sigma) * math.exp(-forgets * (end - start))
    return kept * x + rate * float(there.alpha) * float(integral) * (end - start) / 2


def _last_step_error(solver: SolverPart, degree: int) -> float:
    """Error of the last step from an exact start, with a full memory."""
    noise = _Silent(0, torch.arange(1))
    x = torch.full((1, 1), 0.3, dtype=torch.float64)
    levels = [PATH.level(t) for t in NODES]

    def denoise(x: Tensor, t: float, substep: int = 0, target: float | None = None) -> Estimate:
        return Estimate(torch.full_like(x, _at(degree, float(PATH.level(t).half_log_snr))))

    state = solver.init(x, NODES, PATH)
    for i in range(len(NODES) - 1):
        x = torch.full((1, 1), 0.3, dtype=torch.float64)
        moved, state = solver.step(denoise, x, state, i, noise.at(i))
    return abs(moved.item() - _truth(degree, 0.3, levels[-2], levels[-1], sde=solver.stochastic))


EXACT: list[tuple[SolverPart, int]] = [
    (DPMSolverPP(order=1), 0),
    (DPMSolverPP(order=2, variant="heun"), 1),
    (DPMSolverPP(order=3), 2),
    (DPMSolverPP(order=3, published=True), 1),
    (UniPC(order=3, corrector=False), 2),
    (SASolver(tau=0, order=1, correct=0), 0),
    (SASolver(tau=0, order=2, correct=0), 1),
    (SASolver(tau=0, order=3, correct=0), 2),
    (SASolver(order=2, correct=0), 1),
    (SASolver(order=3, correct=0), 2),
    (DPMSolverPP(order=1, sde=True), 0),
    (DPMSolverPP(order=2, variant="heun", sde=True), 1),
    (DPMSolverPP(order=3, sde=True), 2),
]
INEXACT: list[tuple[SolverPart, int]] = [
    (DPMSolverPP(order=2), 1),
    (UniPC(order=2, corrector=False), 1),
    (DPMSolverPP(order=2, sde=True), 1),
    (DPMSolverPP(order=3, published=True), 2),
    (DPMSolverPP(order=2, variant="heun"), 2),
]


@pytest.mark.parametrize(("exact", "degree"), EXACT, ids=repr)
def test_polynomials_up_to_its_degree_are_exact(exact: SolverPart, degree: int) -> None:
    for lower in range(degree + 1):
        assert _last_step_error(exact, lower) < 1e-12


@pytest.mark.parametrize(("other", "degree"), INEXACT, ids=repr)
def test_beyond_it_they_are_not(other: SolverPart, degree: int) -> None:
    """The published third order above all: half the right coefficient leaves an error on a parabola."""
    assert _last_step_error(other, degree) > 1e-4


def test_without_corrector_unipc_of_order_two_is_2m() -> None:
    x, noise = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None], _Silent(0, torch.arange(5))
    ends = []
    for solver in (DPMSolverPP(), UniPC(corrector=False)):
        y, state = x, solver.init(x, NODES, PATH)
        for i in range(len(NODES) - 1):
            y, state = solver.step(
                lambda x, t, substep=0, target=None: Estimate((x + t).tanh()), y, state, i, noise.at(i)
            )
        ends.append(y)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-12)
