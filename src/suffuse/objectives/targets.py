"""Target weights of consistency objectives: those of the model itself, or an average that follows them."""

from __future__ import annotations

import abc
import copy
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from suffuse.base.part import Joint, Part
from suffuse.models.flow_map import FlowMap

__all__ = ["AveragedWeights", "SameWeights", "TargetWeights", "TargetWeightsPart"]


class TargetWeightsPart(Part, abc.ABC):
    """By which weights the target is computed; never with a gradient."""

    kind: str

    @abc.abstractmethod
    def start(self, model: FlowMap) -> FlowMap | None:
        """A model of its own for the target; None when it is the model itself."""

    def follow(self, target: nn.Module, model: nn.Module, intervals: int | None) -> None:
        """Move the target's weights after a step of the optimiser."""


class SameWeights(TargetWeightsPart):
    """The model's own. With an average the loss tends to a wrong limit, or to none: song2024ict, Section 3.2."""

    kind: Literal["same"] = "same"

    def start(self, model: FlowMap) -> None:
        """None is needed."""
        return


class AveragedWeights(TargetWeightsPart):
    """mu target + (1 - mu) model, with mu = exp(s0 log(mu0) / N) on a grid of N points.

    Source: song2023consistency, Appendix C. Its public code divides by the number of intervals instead.

    Attributes:
        mu0: mu on a grid of s0 points.
        s0: Points of the first grid; None for mu0 throughout.
    """

    kind: Literal["average"] = "average"
    mu0: float = Field(default=0.9, ge=0, lt=1)
    s0: int | None = Field(default=2, ge=2)

    def start(self, model: FlowMap) -> FlowMap:
        """A copy that no gradient reaches."""
        return copy.deepcopy(model).requires_grad_(requires_grad=False)

    def rate(self, intervals: int | None) -> float:
        """mu."""
        if self.s0 is None or intervals is None or self.mu0 == 0:
            return self.mu0
        return math.exp(self.s0 * math.log(self.mu0) / (intervals + 1))

    @torch.no_grad()
    def follow(self, target: nn.Module, model: nn.Module, intervals: int | None) -> None:
        """One fused update; buffers are copied."""
        mine, theirs = ([p.detach() for p in module.parameters()] for module in (target, model))
        torch._foreach_lerp_(mine, theirs, 1 - self.rate(intervals))
        for kept, now in zip(target.buffers(), model.buffers(), strict=True):
            kept.copy_(now)


TargetWeights = Annotated[TargetWeightsPart, Joint("target weights", SameWeights, AveragedWeights)]
