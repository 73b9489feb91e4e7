"""Universal guidance: down the gradient of any loss of clean samples, taken at the estimate of x0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.process import Level
from suffuse.sampling.guidance.classifier import moved
from suffuse.sampling.guidance.gradient import GradientGuidance, Inside, slope_of
from suffuse.sampling.solvers.base import Estimate

__all__ = ["Loss", "UniversalGuidance"]

Loss = Callable[[Tensor, Conditions | None], Tensor]
"""(clean samples (B, ...), conditions) -> what to make small, (B,), each from its own sample alone."""


class UniversalGuidance(GradientGuidance):
    """Down the loss of the estimate: forward by its gradient in x_t, backward by steps in x0.

    Forward: D - scale sigma**2 / alpha times the gradient in x_t of loss(D(x_t)), through the model. Backward: `steps`
    steps of gradient descent from D on the loss itself, whose way is added; it needs no gradient through the model.
    The loss is a function that no file can name, so this guidance is for Python and is not in the table. What it
    compares with travels as a condition of its own, which the model does not read.

    Source: bansal2023universal, Algorithm 1.
    Deviation: steps are not repeated from fresh noise (their self-recurrence): a guidance is handed no randomness of
    the samples, and what it drew by itself would depend on the batch.

    Attributes:
        scale: Of the gradient in x_t; 0 leaves the forward part out.
        steps: Steps of the backward part; 0 leaves it out.
        step_size: Of each of them.
        loss: What to make small.
    """

    kind: Literal["universal"] = "universal"
    scale: float = Field(default=1.0, ge=0)
    steps: int = Field(default=0, ge=0)
    step_size: float = Field(default=0.1, gt=0)
    loss: Loss

    @property
    def idle(self) -> bool:
        """At scale 0 without steps."""
        return self.scale == 0.0 and self.steps == 0

    def steered(
        self, inside: Inside, x: Tensor, t: float, cond: Conditions | None, call: Call, level: Level
    ) -> Estimate:
        """One evaluation, back through all of it for the forward part, and through the loss alone for each step."""

        def loss(x0: Tensor) -> Tensor:
            return self.loss(x0, cond)

        if self.scale == 0.0:
            estimate = inside(x, t, cond, call)
            guided = estimate
        else:
            estimate, slope = inside.slope(x, t, cond, call, loss, "the loss")
            guided = moved(estimate, slope, level, -self.scale, self.kind)
        way = torch.zeros_like(estimate.x0)
        for _ in range(self.steps):
            way = way - self.step_size * slope_of(loss, estimate.x0 + way, "the loss")
        return replace(guided, x0=guided.x0 + way, backward=guided.backward + self.steps)
