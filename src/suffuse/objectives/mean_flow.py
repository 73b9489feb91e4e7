"""MeanFlow: the average velocity between any two times, learned from data alone."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.batch import Batch
from suffuse.base.call import Call
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser
from suffuse.models.derivatives import check_finite_derivative, jvp
from suffuse.models.flow_map import FlowMap, FlowMapSettings
from suffuse.objectives.base import Objective, ObjectivePart, Progress
from suffuse.objectives.batches import data_and_noise, training_conditions
from suffuse.process import Flow, FlowVelocity, LogitNormal, NoiseLevels, PathPart, perturb

__all__ = ["MeanFlow"]


class MeanFlow(ObjectivePart):
    """u(x_t, t, s) = v - (t - s) du/dt, the identity of the average velocity, as a regression.

    The flow map is f(x_t, t, s) = x_t - (t - s) u; du/dt is the derivative along the trajectory, a Jacobian-vector
    product with tangents (v, 1, 0). At s = t it is flow matching.

    Source: geng2025meanflow, Algorithm 1.

    Attributes:
        noise_levels: Law of both times; the larger is t.
        instantaneous: Share of samples with s = t.
        power, c: Adaptive weight 1 / (|error|**2 + c)**power; a power of 0 is the plain square.
        condition_dropout: Probability that a sample's conditions are hidden.
    """

    kind: Literal["mean_flow"] = "mean_flow"
    differentiates: ClassVar[bool] = True
    noise_levels: NoiseLevels = LogitNormal(mean=-0.4, std=1.0)
    instantaneous: float = Field(default=0.75, ge=0, le=1)
    power: float = Field(default=1.0, ge=0)
    c: float = Field(default=1e-3, gt=0)
    condition_dropout: float = Field(default=0.0, ge=0, le=1)

    def flow_map(self) -> FlowMapSettings:
        """Between any two times, down to clean data."""
        return FlowMapSettings(end="clean", any_target=True)

    def check(self, path: PathPart, steps: int) -> None:
        """The identity is that of straight paths."""
        if not isinstance(path, Flow):
            raise UsageError(
                f"objective 'mean_flow' is the identity of the flow path's velocity, but the path is {path.kind!r}; "
                "use path=flow, or objective consistency, which holds on every path"
            )
        if self.noise_levels.stratified:
            raise UsageError(
                "objective.noise_levels.stratified has no meaning for mean_flow, which orders two times; leave it out"
            )

    def build(self, model: Denoiser) -> Objective:
        """A function: the objective has no weights of its own."""
        self.check(model.path, 1)
        if not isinstance(model, FlowMap) or model.target is None or not isinstance(model.prediction, FlowVelocity):
            raise UsageError(
                "objective 'mean_flow' trains a flow map with prediction 'flow' that is told its target; build the "
                "model with ModelConfig(prediction='flow', flow_map=objective.flow_map())"
            )
        return self._losses

    def _times(self, noise: Draws, path: PathPart) -> tuple[Tensor, Tensor]:
        """t and s <= t, (B,) float64 each."""
        u = noise.uniform("times", 3)
        first, second = (self.noise_levels.quantile(u[:, i], path) for i in (0, 1))
        t, s = torch.maximum(first, second), torch.minimum(first, second)
        return t, torch.where(u[:, 2] < self.instantaneous, t, s)

    def _losses(
        self, model: Denoiser, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        x0, eps = data_and_noise(batch, noise, self.kind)
        t, s = self._times(noise, model.path)
        cond = training_conditions(model, batch, noise, self.condition_dropout)
        seeds = noise.keys("network")

        def average_velocity(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return model.evaluate(x, t, cond, Call(seeds=seeds, target=s)).raw

        velocity, zero = eps - x0, torch.zeros_like(s)
        x_t = perturb(model.path, x0, eps, t)
        u, slope = jvp(average_velocity, (x_t, t, s), (velocity, torch.ones_like(t), zero))
        slope = slope.detach()
        check_finite_derivative(slope, progress.step)
        span = (t - s).to(x0.dtype).reshape(-1, *(1,) * (x0.ndim - 1))
        squared = (u - (velocity - span * slope)).float().square().flatten(1).sum(1)
        return {"mean_flow": squared / (squared.detach() + self.c) ** self.power}
