"""A teacher's solver step between two noise levels: what distillation puts in the place of the data pair."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.models.denoiser import Denoiser
from suffuse.objectives.frozen import FrozenRun, denoise_elsewhere, load_frozen
from suffuse.process import Pair, PathPart, expand

__all__ = ["TeacherStep"]


class TeacherStep(FrozenRun):
    """One step of a frozen denoiser along the probability-flow ODE, in u = x / alpha and r = sigma / alpha.

    Source: song2023consistency, Algorithm 2.

    Attributes:
        solver: `euler` asks the teacher once (it is DDIM), `heun` twice, for the second order.
        guidance: Scale of classifier-free guidance of the teacher; 1 is none.
    """

    solver: Literal["euler", "heun"] = "heun"
    guidance: float = Field(default=1.0, ge=0)

    def load(self, like: Denoiser) -> Denoiser:
        """The teacher.

        Raises:
            UsageError: It estimates endpoints, or cannot be guided as asked.
        """
        teacher = load_frozen(self, like, "teacher")
        if teacher.estimate != "mean":
            raise UsageError(
                f"the teacher {self.run} is a flow map, whose estimate is no mean that a solver could step on; give "
                "the denoiser that it came from"
            )
        if self.guidance != 1.0 and not teacher.conditioner.reads:
            raise UsageError(
                f"teacher.guidance is {self.guidance:g}, but the teacher {self.run} knows no conditions; set it to 1"
            )
        return teacher

    def step(self, teacher: Denoiser, path: PathPart, x: Tensor, pair: Pair, cond: Conditions) -> Tensor:
        """From x at pair.t to pair.s: (B, ...) -> (B, ...), on the student's path."""
        r_t, r_s = expand(pair.r_t, x), expand(pair.r_s, x)
        alpha_s = expand(path.alpha(pair.s), x)
        # x / alpha by way of sigma: finite where a path ends in pure noise, for which the pair has a stand-in of r.
        u = x * (r_t / expand(path.sigma(pair.t), x))
        slope = (u - self.denoised(teacher, path, x, pair.t, cond)) / r_t
        moved = u + (r_s - r_t) * slope
        if self.solver == "heun":
            second = (moved - self.denoised(teacher, path, alpha_s * moved, pair.s, cond)) / r_s.clamp_min(1e-12)
            moved = torch.where(r_s > 0, u + (r_s - r_t) * (slope + second) / 2, moved)
        return alpha_s * moved

    def denoised(self, teacher: Denoiser, path: PathPart, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """The teacher's estimate of x0, guided as asked, on the student's path: (B, ...)."""
        with_cond = denoise_elsewhere(teacher, path, x, t, cond)
        if self.guidance == 1.0 or not cond:
            return with_cond
        without = denoise_elsewhere(teacher, path, x, t, cond.absent())
        return without + self.guidance * (with_cond - without)
