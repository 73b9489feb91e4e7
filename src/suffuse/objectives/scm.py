"""Continuous-time consistency training on the trigonometric path (sCM), by a forward derivative of the map."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.call import Call
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser
from suffuse.models.derivatives import check_finite_derivative, jvp
from suffuse.models.flow_map import FlowMap, FlowMapSettings
from suffuse.networks.blocks.embeddings import Sinusoids
from suffuse.networks.blocks.initialise import zero_weights
from suffuse.networks.part import seeded
from suffuse.objectives.base import Objective, ObjectivePart, Progress
from suffuse.objectives.batches import data_and_noise, training_conditions
from suffuse.process import EDMPrediction, LogNormal, NoiseLevels, PathPart, TrigonometricPath, expand, perturb

__all__ = ["ContinuousConsistency"]


class ContinuousConsistency(ObjectivePart):
    """The limit of consistency training for neighbouring times that meet.

    With f = cos(t) x + sigma_data sin(t) F (EDM's prediction on this path; the paper's F has the other sign), the
    tangent g = cos(t) df/dt is regressed onto: |F - F^- + g / (|g| + c)|**2 / D, weighted by exp(w(t)), w learned.

    Source: lu2025scm, Algorithm 1.

    Attributes:
        noise_levels: Law of sigma / alpha.
        warmup: Share of the run over which the derivative's unstable part is faded in.
        c: Of the tangent's normalisation.
        adaptive: Learn the weight of each noise level.
        condition_dropout: Probability that a sample's conditions are hidden.
    """

    kind: Literal["continuous_consistency"] = "continuous_consistency"
    differentiates: ClassVar[bool] = True
    noise_levels: NoiseLevels = LogNormal(mean=-1.0, std=1.4)
    warmup: float = Field(default=0.1, ge=0, le=1)
    c: float = Field(default=0.1, gt=0)
    adaptive: bool = True
    condition_dropout: float = Field(default=0.0, ge=0, le=1)

    def flow_map(self) -> FlowMapSettings:
        """To clean data alone."""
        return FlowMapSettings(end="clean")

    def check(self, path: PathPart, steps: int) -> None:
        """The tangent is written for this path."""
        if not isinstance(path, TrigonometricPath):
            raise UsageError(
                f"objective 'continuous_consistency' is written for path 'trigonometric', not {path.kind!r}; use "
                "path=trigonometric and prediction=edm"
            )
        self.noise_levels.check(path)

    def build(self, model: Denoiser) -> Objective:
        """A module: the weight is learned."""
        self.check(model.path, 1)
        if not isinstance(model, FlowMap) or not isinstance(model.prediction, EDMPrediction):
            raise UsageError(
                "objective 'continuous_consistency' trains a flow map with prediction 'edm'; build the model with "
                "ModelConfig(prediction='edm', flow_map=objective.flow_map())"
            )
        assert isinstance(model.path, TrigonometricPath)
        if abs(model.path.sigma_data - model.sigma_data) > 1e-9:
            raise UsageError(
                f"path.sigma_data is {model.path.sigma_data:g} and sigma_data {model.sigma_data:g}; on this path both "
                "are the data's standard deviation: set them equal"
            )
        return _ContinuousLoss(self)


class _LearnedWeight(nn.Module):
    """w(t), (B,) -> (B,); zero at first."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.sinusoids = Sinusoids(channels, freq_shift=0, cosine_first=True)
        with seeded(0):  # what it draws is thrown away at once
            self.linear = nn.Linear(channels, 1)
        zero_weights(self.linear)

    def forward(self, told: Tensor) -> Tensor:
        value: Tensor = self.linear(self.sinusoids(told))
        return value[:, 0]


class _ContinuousLoss(nn.Module):
    def __init__(self, part: ContinuousConsistency) -> None:
        super().__init__()
        self.part = part
        self.weight = _LearnedWeight() if part.adaptive else None

    def forward(
        self, model: FlowMap, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        """Losses by name, (B,) each."""
        part, data = self.part, model.sigma_data
        x0, eps = data_and_noise(batch, noise, part.kind)
        t = part.noise_levels.draw(noise, model.path)
        cond = training_conditions(model, batch, noise, part.condition_dropout)
        call = Call(seeds=noise.keys("network"))

        def raw(x: Tensor, t: Tensor) -> Tensor:
            return model.evaluate(x, t, cond, call).raw

        cos, sin = expand(t.cos(), x0), expand(t.sin(), x0)
        x_t, velocity = perturb(model.path, x0, eps, t), cos * data * eps - sin * x0
        # cos sin is put into the direction instead of multiplied afterwards: the product is bounded, its factors not.
        mine, slope = jvp(raw, (x_t, t), (cos * sin * velocity, t.cos() * t.sin()))
        frozen, slope = mine.detach(), slope.detach()
        check_finite_derivative(slope, progress.step)
        fade = min(1.0, (progress.step + 1) / max(part.warmup * progress.total, 1))
        tangent = cos * cos * (velocity + data * frozen) + fade * (data * slope - cos * sin * x_t)
        length = tangent.flatten(1).norm(dim=1).reshape(-1, *(1,) * (x0.ndim - 1))
        # df/dt = 0 is approached by moving F against the tangent of what it multiplies: F's coefficient is positive.
        error = (mine - frozen + tangent / (length + part.c)).float().square().flatten(1).mean(1)
        if self.weight is None:
            return {"continuous_consistency": error}
        with torch.autocast(x0.device.type, enabled=False):  # it goes into an exponential
            weight = self.weight(model.told(t, len(x0)))
        return {"continuous_consistency": weight.exp() * error, "weight": -weight}
