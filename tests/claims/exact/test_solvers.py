"""Experiments with solvers: true trajectories by another integrator, memories that are exact, and what they report."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from suffuse.base.errors import UsageError
from suffuse.claims.exact import FewSteps, SchedulerMatch, SolverOrder, WeakOrder
from suffuse.claims.exact.trajectories import FROM, TO, error, ring, slope, three_normals, trajectory
from suffuse.process import EDM, VP
from suffuse.sampling import DDIM, DDPM, DPMSolver, DPMSolverPP, Heun, UniPC


@pytest.mark.parametrize(("density", "made"), [("three", three_normals), ("ring", ring)])
def test_trajectories_are_those_of_another_integrator_in_another_variable(density: str, made: object) -> None:
    model = made(EDM())  # type: ignore[operator]  # one of the two above
    nodes = trajectory(density, 3, 40, 32)[:, :2]  # type: ignore[arg-type]  # as above

    def change(rho: float, x: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(x).reshape(2, -1)
        return ((points - model.denoise(points, rho)) / rho).ravel().numpy()

    span = (np.exp(-FROM), np.exp(-TO))
    found = solve_ivp(change, span, nodes[0].ravel().numpy(), method="DOP853", rtol=1e-11, atol=1e-12)
    assert nodes[-1].ravel().numpy() == pytest.approx(found.y[:, -1], abs=1e-8)


def test_a_slope_is_the_exponent() -> None:
    assert slope((10, 20, 40), [5e-2 * n**-3.0 for n in (10, 20, 40)]) == pytest.approx(3)


def test_correctors_get_an_exact_start_too() -> None:
    """UniPC-3's own start costs an order; with an exact memory alone its corrector would bring that error back."""
    counts = (320, 640)
    model, truth, solver = three_normals(VP()), trajectory("three", 0, 640, 4), UniPC(order=3, b="b1")
    warm = [error(solver, model, truth, n, warm=n // 4) for n in counts]
    own = [error(solver, model, truth, n) for n in counts]
    assert slope(counts, warm) == pytest.approx(4, abs=0.1)
    assert slope(counts, own) < 3.5


def test_orders_are_reported_beside_what_is_declared() -> None:
    found = SolverOrder(solver=Heun(), counts=(40, 80), shown=(20,)).of(0)
    assert (found["declared"], found["declared_going"]) == (2, 2)
    assert found["off"] == pytest.approx(max(abs(found["slope"] - 2), abs(found["going"] - 2)))
    assert found["rms@20"] > 3 * found["rms@40"]
    assert {"rms_going@40", "rms_going@80"} <= found.keys()


def test_an_order_that_is_not_kept_shows() -> None:
    """DDIM under the name of a solver of second order."""

    class Boastful(DDIM):
        @property
        def convergence(self) -> int:
            return 2

    found = SolverOrder.model_construct(solver=Boastful(), path=VP(), counts=(40, 80), shown=()).of(0)
    assert found["off"] == pytest.approx(1, abs=0.1)


def test_weak_orders_are_those_of_the_variance() -> None:
    found = WeakOrder(solver=DDPM(), counts=(80, 160), shown=(20,)).of(0)
    assert found["slope"] == pytest.approx(1, abs=0.1)
    assert found["variance@20"] == pytest.approx(0.24, abs=0.02)


def test_few_steps_are_paid_from_the_budget() -> None:
    found = FewSteps(solver=DPMSolver(order=3), budgets=(5, 20)).of(0)
    assert (found["steps@5"], found["steps@20"]) == (1, 6)
    assert found["rms@20"] < found["rms@5"]
    on_ring = FewSteps(solver=DPMSolverPP(), density="ring", budgets=(5,)).of(0)
    assert on_ring["rms@5"] != FewSteps(solver=DPMSolverPP(), budgets=(5,)).of(0)["rms@5"]


def test_without_diffusers_a_match_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match=r"DDIMScheduler needs diffusers, which is not installed; pip install"):
        SchedulerMatch(pair="ddim-trailing-to-clean").of(0)
