"""Grids of diffusers' schedulers: the same indices, whatever their convention."""

from __future__ import annotations

import diffusers
import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.interop.scheduler_grids import grid_of
from suffuse.process import Flow
from suffuse.process.vp import VP
from suffuse.sampling import BetaLaw, Karras, LogSNR, Shifted, Uniform

PATH = VP(schedule="linear", steps=1000)
ONE_EACH = ("DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
SPARE = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler")


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", [*ONE_EACH, *SPARE])
def test_indices_are_the_schedulers_own(kind: str, spacing: str, steps: int) -> None:
    scheduler = getattr(diffusers, kind)(timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    found = grid_of(scheduler, steps).nodes(PATH)
    theirs = torch.as_tensor(scheduler.timesteps).double()
    # Euler's linspace keeps fractions, which tables of ours do not have.
    torch.testing.assert_close(found, theirs.round(), rtol=0, atol=0)


def test_noise_levels_by_name() -> None:
    assert grid_of(diffusers.EulerDiscreteScheduler(use_karras_sigmas=True), 9) == Karras(steps=9)
    assert grid_of(diffusers.EulerDiscreteScheduler(use_exponential_sigmas=True), 9) == LogSNR(steps=9)
    assert grid_of(diffusers.DPMSolverMultistepScheduler(use_lu_lambdas=True), 9) == LogSNR(steps=9)
    pytest.importorskip("scipy")
    assert grid_of(diffusers.EulerDiscreteScheduler(use_beta_sigmas=True), 9) == BetaLaw(steps=9)


def test_karras_levels_are_the_schedulers() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True, beta_start=1e-4, beta_end=0.02)
    scheduler.set_timesteps(10)
    times = grid_of(scheduler, 10).nodes(PATH)
    ours = (-PATH.half_log_snr(times)).exp()
    torch.testing.assert_close(ours, scheduler.sigmas[:-1].double(), rtol=1e-4, atol=0)


def test_flow_matching_keeps_its_shift() -> None:
    assert grid_of(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 7) == Shifted(steps=7, shift=3.0)
    flow = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    grid = grid_of(flow, 7)
    assert grid == Shifted(steps=7, shift=3.0)
    assert grid.times(Flow())[0] == 1.0


def test_a_configuration_will_do() -> None:
    assert grid_of({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, 4) == Uniform(steps=4)
    with pytest.raises(UsageError, match="spaces its times by 'odd'"):
        grid_of({"_class_name": "DDIMScheduler", "timestep_spacing": "odd"}, 4)
