"""Steps chosen by a tolerance: it decides the error and the cost, wherever the grid makes the solver stop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from suffuse.base.errors import RunError, UsageError
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, VP, Flow, PathPart
from suffuse.sampling import Adaptive, DPMSolver, Karras, sample

MAKE = Callable[[PathPart], ExactMixture]


def _ends(model: ExactMixture, solver: Adaptive | DPMSolver, steps: int, **range_: float) -> tuple[Tensor, float]:
    made = sample(
        model, 64, shape=(1,), solver=solver, grid=Karras(steps=steps, **range_), dtype=torch.float64, batch=64
    )
    return made.x, made.nfe


def test_a_smaller_tolerance_costs_more_and_errs_less(mixture: MAKE) -> None:
    model = mixture(EDM())
    truth, _ = _ends(model, DPMSolver(order=3), 400)
    errors, costs = [], []
    for rtol in (0.1, 0.01, 0.001):
        found, nfe = _ends(model, Adaptive(rtol=rtol, atol=rtol / 10), 1)
        errors.append((found - truth).square().mean().sqrt().item())
        costs.append(nfe)
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 1e-2
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize("steps", [1, 4])
def test_it_is_the_same_trajectory_on_any_path_and_grid(mixture: MAKE, steps: int) -> None:
    ends = [
        _ends(mixture(path), Adaptive(rtol=1e-3, atol=1e-4), steps, sigma_min=0.01, sigma_max=50.0)[0]
        for path in (EDM(), Flow())
    ]
    # Starts differ by alpha(t_max), a fiftieth, at the noisiest level.
    assert (ends[0] - ends[1]).abs().mean() < 0.05


def test_it_starts_from_pure_noise(gaussian: MAKE) -> None:
    made = sample(gaussian(VP(zero_terminal_snr=True)), 500, shape=(1,), solver=Adaptive(), grid=None, batch=500)
    assert float(made.x.std()) == pytest.approx(0.4, rel=0.15)


def test_its_cost_is_not_known_beforehand() -> None:
    with pytest.raises(UsageError, match=r"so nfe cannot be given; give steps \(1 leaves all to the tolerance\)"):
        Adaptive().steps_for(10)


def test_samples_that_are_not_finite_are_said_at_once(mixture: MAKE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExactMixture, "denoise", lambda self, x, t, cond=None, call=None: torch.full_like(x, torch.nan))
    with pytest.raises(RunError, match="met samples that are not finite"):
        sample(mixture(EDM()), 2, shape=(1,), solver=Adaptive(), grid=Karras(steps=1))
