"""BOOT: distil a teacher without data; what the student knows at one time is its target a little later."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.call import Call
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser
from suffuse.models.flow_map import FlowMap, FlowMapSettings
from suffuse.objectives.base import Objective, ObjectivePart, Progress
from suffuse.objectives.batches import training_conditions
from suffuse.objectives.teacher import TeacherStep
from suffuse.process import Pair, PathPart, aim, expand, transfer

__all__ = ["Bootstrap"]


class Bootstrap(ObjectivePart):
    """A map from pure noise to any time of its trajectory, taught by a teacher's steps from where the map itself is.

    With x_T = sigma_T eps the signal is y(eps, t), for which x_t = alpha_t y + sigma_t eps: the network's estimate
    of data when it is told where to go, so that BOOT's student is a flow map with its start fixed at the prior. The
    teacher takes x_t to x_s, which says what y(eps, s) shall be; at the prior itself it is the teacher's own estimate.
    Nothing of the data is looked at but their conditions. A student samples in one step, from the prior.

    Source: gu2023boot, Eqs. 8 to 10; normalised by the step's own factor k = 1 - exp(lambda_t - lambda_s) instead of
    its width, so that the error is that of the teacher's estimate of data.

    Attributes:
        teacher: A finished denoiser; `euler` is its DDIM step, `heun` a second-order one. It may be guided.
        delta: Width of a step as a share of the path's times.
        boundary: Factor on the loss at the prior.
        condition_dropout: Probability that a sample's conditions are hidden.
    """

    kind: Literal["bootstrap"] = "bootstrap"
    couples: ClassVar[bool] = False
    teacher: TeacherStep
    delta: float = Field(default=1 / 32, gt=0, lt=1)
    boundary: float = Field(default=1.0, ge=0)
    condition_dropout: float = Field(default=0.0, ge=0, le=1)

    def flow_map(self) -> FlowMapSettings:
        """Told its target, down to the least trained time."""
        return FlowMapSettings(end="t_min", any_target=True)

    def check(self, path: PathPart, steps: int) -> None:
        """Steps of even width need a path whose times do not span decades."""
        if path.told_scale is None:
            raise UsageError(
                f"objective 'bootstrap' steps evenly through the path's times, which span decades on {path.kind!r}; "
                "use path vp or flow (the teacher may be on another path)"
            )

    def build(self, model: Denoiser) -> Objective:
        """A module, because it holds the teacher."""
        self.check(model.path, 1)
        if not isinstance(model, FlowMap) or model.target is None:
            raise UsageError(
                "objective 'bootstrap' trains a flow map that is told its target; build the model with "
                "ModelConfig(flow_map=objective.flow_map())"
            )
        return _BootstrapLoss(self, model)


class _BootstrapLoss(nn.Module):
    def __init__(self, part: Bootstrap, model: FlowMap) -> None:
        super().__init__()
        self.part = part
        self._teacher = (part.teacher.load(model),)  # never trained, never saved
        if model.config is None:
            raise UsageError("objective 'bootstrap' draws noise in the shape of the model's configuration; it has none")
        self.shape = model.config.shape

    def forward(
        self, model: FlowMap, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        """Losses by name, (B,) each: `bootstrap` and `boundary`."""
        part, path, (teacher,) = self.part, model.path, self._teacher
        eps = noise.normal("eps", self.shape)
        # Of the batch the conditions alone: nothing is computed from its data.
        cond = training_conditions(model, replace(batch, x0=None), noise, part.condition_dropout)
        width = part.delta * (path.t_max - path.t_clean)
        t = path.t_min + width + noise.uniform("times") * (path.t_max - path.t_min - width)
        s = t - width
        top = path.level(path.t_max)
        x_top = float(top.sigma) * eps
        call = Call(seeds=None)  # targets are exact: no dropout

        def signal(at: float | Tensor) -> Tensor:
            return model.evaluate(x_top, path.t_max, cond, call.replace(target=at)).denoised

        with torch.no_grad():
            here, there = path.level(t, eps), path.level(s, eps)
            x_t = transfer(x_top, signal(t), top, here)
            pair = Pair(t, s, path.sigma(t) / path.alpha(t), path.sigma(s) / path.alpha(s))
            x_s = part.teacher.step(teacher, path, x_t, pair, cond)
            target = aim(x_top, x_s, top, there)
            factor = expand(1 - path.alpha(t) * path.sigma(s) / (path.sigma(t) * path.alpha(s)), eps)
        error = ((signal(s) - target) / factor).float().square().flatten(1).mean(1)
        losses = {"bootstrap": error}
        if part.boundary:
            with torch.no_grad():
                clean = part.teacher.denoised(teacher, path, x_top, torch.full_like(t, path.t_max), cond)
            start = (signal(path.t_max) - clean).float().square().flatten(1).mean(1)
            losses["boundary"] = part.boundary * start
        return losses
