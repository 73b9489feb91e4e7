"""Progressive distillation: a student that takes two of its teacher's steps in one, halved again and again."""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.call import Call
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser
from suffuse.objectives.base import Objective, ObjectivePart, Progress
from suffuse.objectives.batches import data_and_noise, training_conditions
from suffuse.objectives.denoising import denoising_loss
from suffuse.objectives.frozen import check_told_alike
from suffuse.process import PathPart, TruncatedSNR, Weighting, aim, perturb, transfer

__all__ = ["Progressive", "ProgressiveLoss"]


class Progressive(ObjectivePart):
    """Two DDIM steps of the teacher t -> t' -> t'' become one of the student: it regresses the data estimate whose one
    step lands where the two do, x0 = (x'' - (sigma''/sigma) x) / (alpha'' - alpha sigma''/sigma).

    Training starts from a finished denoiser (`init`), which is the first teacher; when a stage ends the student becomes
    the teacher, and the number of steps is halved. The student is sampled by DDIM with the last number of steps.

    Source: salimans2022progressive, Algorithm 2.

    Attributes:
        first: Steps of the first student; its teacher takes twice as many.
        last: Steps of the last student. Both divide one another by a power of two.
        weighting: Of the data estimate; max(SNR, 1) is the paper's.
        condition_dropout: Probability that a sample's conditions are hidden.
    """

    kind: Literal["progressive"] = "progressive"
    needs_init: ClassVar[bool] = True
    first: int = Field(default=16, ge=1)
    last: int = Field(default=1, ge=1)
    weighting: Weighting = TruncatedSNR()
    condition_dropout: float = Field(default=0.0, ge=0, le=1)

    @property
    def stages(self) -> int:
        """How many halvings there are."""
        return (self.first // self.last).bit_length()

    def steps_at(self, step: int, total: int) -> int:
        """Steps of the student at a training step."""
        return self.first >> min(step * self.stages // total, self.stages - 1)

    def check(self, path: PathPart, steps: int) -> None:
        """Halvings must be whole, and every stage needs a step."""
        ratio = self.first / self.last
        if path.told_scale is None:
            raise UsageError(
                f"objective 'progressive' divides the path's times evenly, which span decades on {path.kind!r}; use "
                "path vp or flow"
            )
        if ratio < 1 or ratio != 2 ** (self.stages - 1):
            raise UsageError(
                f"objective.first is {self.first} and objective.last {self.last}; the steps are halved from stage to "
                "stage, so first must be last times a power of two"
            )
        if steps < self.stages:
            raise UsageError(f"progressive distillation has {self.stages} stages, but the run has only {steps} steps")

    def build(self, model: Denoiser) -> Objective:
        """A module: the teacher of the stage is part of a checkpoint."""
        self.check(model.path, self.stages)
        check_told_alike(model, "teacher")
        return ProgressiveLoss(self, model)


class ProgressiveLoss(nn.Module):
    """The live objective.

    Attributes:
        teacher: The student of the stage before; at first the weights that training starts from.
    """

    def __init__(self, part: Progressive, model: Denoiser) -> None:
        super().__init__()
        self.part = part
        self.teacher = copy.deepcopy(model).requires_grad_(requires_grad=False)

    def forward(
        self, model: Denoiser, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        """Losses by name, (B,) each."""
        path = model.path
        x0, eps = data_and_noise(batch, noise, self.part.kind)
        steps = self.part.steps_at(progress.step, progress.total)
        grid = torch.linspace(path.t_max, path.t_clean, 2 * steps + 1, dtype=torch.float64, device=x0.device)
        i = 2 * (noise.uniform("times") * steps).floor().long()
        t, half, end = grid[i], grid[i + 1], grid[i + 2]
        x_t = perturb(path, x0, eps, t)
        cond = training_conditions(model, batch, noise, self.part.condition_dropout)
        here, middle, there = (path.level(time, x0) for time in (t, half, end))
        with torch.no_grad():
            x_half = transfer(x_t, self.teacher.denoise(x_t, t, cond), here, middle)
            x_end = transfer(x_half, self.teacher.denoise(x_half, half, cond), middle, there)
            target = aim(x_t, x_end, here, there)
        evaluation = model.evaluate(x_t, t, cond, Call(seeds=noise.keys("network")))
        return {"progressive": denoising_loss(evaluation, target, self.part.weighting)}

    @torch.no_grad()
    def after_step(self, model: nn.Module, progress: Progress) -> None:
        """The student becomes the teacher when its stage ends."""
        now = self.part.steps_at(progress.step, progress.total)
        if progress.step + 1 < progress.total and self.part.steps_at(progress.step + 1, progress.total) != now:
            self.teacher.load_state_dict(model.state_dict())
