"""Denoising: the regression of clean data, in every prediction and weighting."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.batch import Batch
from suffuse.base.call import Call
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser, Evaluation
from suffuse.objectives.base import Objective, ObjectivePart, Progress
from suffuse.objectives.batches import data_and_noise, training_conditions
from suffuse.objectives.time_penalty import TimePenalty
from suffuse.process import (
    NoiseLevels,
    PlainWeighting,
    UniformTimes,
    Weighting,
    WeightingPart,
    perturb,
)
from suffuse.process.compose import check_process

__all__ = ["Denoising", "denoising_loss"]


class Denoising(ObjectivePart):
    """Weighted squared error of the data estimate at random noise levels.

    Source: ho2020ddpm, Eq. 14; song2021sde, Eq. 7; karras2022edm, Eq. 8: one formula, the rest are parts.

    Attributes:
        noise_levels: At which times we train.
        weighting: How heavily each counts.
        condition_dropout: Probability that a sample's conditions are hidden: guidance needs an unconditional half.
        time_penalty: Penalty on the network's change in time near clean data; None for none.
    """

    kind: Literal["denoising"] = "denoising"
    noise_levels: NoiseLevels = UniformTimes()
    weighting: Weighting = PlainWeighting()
    condition_dropout: float = Field(default=0.1, ge=0, le=1)
    time_penalty: TimePenalty | None = None

    def build(self, model: Denoiser) -> Objective:
        """A function: the objective has no weights of its own."""
        check_process(model.path, model.prediction, model.time, self.noise_levels)
        if self.time_penalty is not None:
            self.time_penalty.check(model.path)
        return self._losses

    def _losses(
        self, model: Denoiser, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        x0, eps = data_and_noise(batch, noise, self.kind)
        t = self.noise_levels.draw(noise, model.path)
        x = perturb(model.path, x0, eps, t)
        call = Call(seeds=noise.keys("network"))
        cond = training_conditions(model, batch, noise, self.condition_dropout)
        evaluation = model.evaluate(x, t, cond, call)
        losses = {"denoising": denoising_loss(evaluation, x0, self.weighting, batch.mask)}
        if self.time_penalty is not None:
            losses["time_penalty"] = self.time_penalty.of(model, evaluation, t, cond, call)
        return losses


def denoising_loss(evaluation: Evaluation, x0: Tensor, weighting: WeightingPart, mask: Tensor | None = None) -> Tensor:
    """Weighted squared error of the data estimate, averaged over a sample's elements: (B,) float32.

    Args:
        evaluation: From the model at x_t; its coefficients are (B, 1, ...).
        x0: Data, (B, ...).
        weighting: Factor on |D - x0|**2.
        mask: Where the loss counts, (B, ...); everywhere when None. Averages divide by what counts.
    """
    lam, c_out = torch.as_tensor(evaluation.level.half_log_snr), torch.as_tensor(evaluation.c_out)
    weight = weighting.of(lam, c_out)
    error = (evaluation.denoised - x0).float() ** 2 * weight
    if mask is None:
        return error.flatten(1).mean(1)
    counted = mask.expand_as(error).flatten(1).sum(1)
    return (error * mask).flatten(1).sum(1) / counted.masked_fill(counted == 0, 1)  # nothing counts: the loss is 0
