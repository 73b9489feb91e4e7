"""Solvers and grids against diffusers' schedulers, step by step, both driven by the same analytic network."""

from __future__ import annotations

import pytest

from suffuse.base.part import parse
from suffuse.interop.scheduler_match import differences
from suffuse.interop.scheduler_pairs import BETAS, PAIRS, TABLE, Pair
from suffuse.process import EDM
from suffuse.sampling import Karras, Uniform

diffusers = pytest.importorskip("diffusers")

# diffusers keeps its tables in float32, and some of its coefficients pass through a logarithm and back.
CLOSE = 1e-4


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_every_step_agrees(pair: Pair) -> None:
    count = 0
    for step, difference in enumerate(differences(pair)):
        assert difference < CLOSE, f"step {step} of {pair.steps} differs by {difference:.1e}"
        count += 1
    assert count == pair.steps


@pytest.mark.parametrize(("spacing", "offset"), [("trailing", 0), ("leading", 0), ("leading", 1), ("linspace", 0)])
def test_indices_are_the_schedulers(spacing: str, offset: int) -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS, timestep_spacing=spacing, steps_offset=offset)
    for steps in (*range(2, 60), 75, 128, 333, 999 if offset else 1000):
        if spacing == "trailing" and steps % 16 == 0:
            continue  # 1000 (1 - i / N) may lie halfway between two indices, and arange's rounding errors decide
        scheduler.set_timesteps(steps)
        grid = parse(Uniform, {"steps": steps, "spacing": spacing, "offset": offset})
        assert grid.nodes(TABLE).tolist() == scheduler.timesteps.tolist()


def test_karras_is_the_schedulers() -> None:
    for steps in (2, 7, 18, 40):
        scheduler = diffusers.EDMEulerScheduler()
        scheduler.set_timesteps(steps)
        assert Karras(steps=steps).times(EDM()) == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)
