"""Presets on pipelines of diffusers: the solver, the grid and the plan that `suffuse tune` found for a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from suffuse.acceleration import applied
from suffuse.tasks.presets import Preset, load_preset

__all__ = ["preset_applied"]


@contextmanager
def preset_applied(pipe: Any, run: str | Path, name: str) -> Iterator[Preset]:  # Any: a pipeline of another package
    """Give a diffusers pipeline a preset's solver, grid and plan for as long as the context lasts.

    `with preset_applied(pipe, "runs/mine", "budget-0.5") as preset:
    pipe(..., num_inference_steps=preset.sampling.grid.steps)`. Guidance stays the pipeline's own argument.

    Args:
        pipe: The pipeline, such as one made of the run by `suffuse convert`.
        run: Folder of the run that has the preset.
        name: Of the preset.

    Raises:
        UsageError: No such preset, diffusers is not installed, or a pipeline that cannot have it.
    """
    from suffuse.interop.solver_scheduler import SolverScheduler

    preset = load_preset(Path(run), name)
    before = pipe.scheduler
    way = preset.sampling
    pipe.scheduler = SolverScheduler.like(before, solver=way.solver.dump(), grid=way.grid.dump())
    try:
        with applied(pipe, way.plan):
            yield preset
    finally:
        pipe.scheduler = before
