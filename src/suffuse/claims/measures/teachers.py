"""Measures against the teacher that a run was distilled from."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field

from suffuse.base.errors import UsageError
from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.models.pretrained import load_model
from suffuse.objectives.teacher import TeacherStep
from suffuse.sampling import DDIM, Consistency, Uniform, sample

__all__ = ["TeacherMapError"]


class TeacherMapError(MeasurePart):
    """Distance of one jump to where the teacher's own trajectory from the same noise ends: teacher_error, its mean.

    Beside it teacher_spread, the mean distance of those ends to their mean: what answering the mean would score. A run
    without a teacher (the teacher itself) is held against its own trajectory.

    Attributes:
        samples: How many noises.
        steps: DDIM steps of the teacher.
    """

    kind: Literal["teacher_error"] = "teacher_error"
    samples: int = Field(default=2000, ge=1)
    steps: int = Field(default=500, ge=2)
    source: ClassVar[tuple[str, ...]] = ("suffuse.sampling.loop", "suffuse.sampling.grid", "suffuse.objectives.teacher")

    def of(self, bench: Bench) -> dict[str, float]:
        """In units of the data."""
        run = bench.run
        part = getattr(run.recipe.objective, "teacher", None) if run.recipe else None
        if part is not None and not isinstance(part, TeacherStep):
            raise UsageError(f"{run.folder} has a teacher that takes no steps; this measure does not know it")
        model = run.model
        teacher = model if part is None else load_model(_place(run.folder, part.run)).to(model.device)
        shape, n = run.config.shape, self.samples
        ends = sample(teacher, n, shape=shape, solver=DDIM(), grid=Uniform(steps=self.steps), seed=9, batch=n).x
        jump = sample(model, n, shape=shape, solver=Consistency(), grid=Uniform(steps=1), seed=9, batch=n).x
        far = (ends - ends.mean(0)).flatten(1).norm(dim=1).mean()
        return {
            "teacher_error": float((jump - ends).flatten(1).norm(dim=1).mean()),
            "teacher_spread": float(torch.as_tensor(far)),
        }

    def smaller(self) -> TeacherMapError:
        """Few noises in few steps."""
        return self.replace(samples=10, steps=4)


def _place(folder: Path, run: str) -> Path:
    """Where a run's frozen model is: its own copy, or where it was."""
    return folder / run if (folder / run).is_dir() else Path(run)
