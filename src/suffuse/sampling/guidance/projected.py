"""Adaptive projected guidance: the part of the guidance that only makes samples brighter is left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.call import Call
from suffuse.process import Level
from suffuse.sampling.guidance.classifier_free import CFG, Combine

__all__ = ["APG"]


@dataclass
class _Running:
    """The difference of the estimates that momentum has gathered, before this step and with it."""

    before: Tensor | float = 0.0
    now: Tensor | float = 0.0


class APG(CFG):
    """D = D_cond + (scale - 1) (difference across D_cond + `along` times that along it).

    The difference D_cond - D_uncond is first mixed with that of the steps before (`momentum`) and made no longer than
    `longest`. With momentum 0, no limit and `along` 1 it is CFG.

    Source: sadat2025apg, Algorithm 1.

    Attributes:
        along: Share of the part along the estimate that stays; it is what oversaturates.
        longest: Largest norm of a sample's difference, over all its elements; 2.5 for class-conditional models and 15
            for SDXL's latents in the source.
        momentum: Weight of the steps before; below 0 it pushes away from them. Evaluations within a step share what was
            gathered before it.
    """

    kind: Literal["apg"] = "apg"  # type: ignore[assignment]  # a name of its own
    along: float = Field(default=0.0, ge=0, le=1)
    longest: float = Field(default=math.inf, gt=0)
    momentum: float = Field(default=0.0, gt=-1, lt=1)

    @property
    def most_evaluations(self) -> int:
        """Two, or one at scale 1: at 0 the difference still counts, less what is taken off it."""
        return 1 if self.scale == 1.0 else 2

    def combiner(self) -> Combine:
        """With a memory of its own."""
        running = _Running()

        def combine(x: Tensor, uncond: Tensor, given: Tensor, level: Level, call: Call) -> Tensor:
            if call.substep == 0:
                running.before = running.now
            difference = given - uncond
            if self.momentum:
                difference = difference + self.momentum * running.before
                running.now = difference.detach() if call.substep == 0 else running.now
            guided = given + (self.scale - 1) * self._kept(difference, given)
            return guided if self.rescale == 0 else self._rescaled(x, guided, given, level)

        return combine

    def _kept(self, difference: Tensor, given: Tensor) -> Tensor:
        """The difference, shortened and without part of what lies along the estimate: (B, ...)."""
        shape = (-1, *(1,) * (difference.ndim - 1))
        if math.isfinite(self.longest):
            norms = difference.flatten(1).norm(dim=1).clamp_min(1e-12)
            difference = difference * (self.longest / norms).clamp_max(1).view(shape)
        if self.along == 1.0:
            return difference
        flat, towards = difference.flatten(1).double(), given.flatten(1).double()
        share = (flat * towards).sum(1) / towards.square().sum(1).clamp_min(1e-24)
        parallel = share.view(shape).to(given) * given
        return torch.sub(difference, parallel, alpha=1 - self.along)
