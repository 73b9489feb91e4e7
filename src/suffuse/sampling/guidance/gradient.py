"""What guidances by gradients share: the guidance inside, and slopes through it that leave weights alone."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Self

import torch
from pydantic import model_validator
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.part import Joint
from suffuse.process import Level, PathPart
from suffuse.sampling.guidance.autoguidance import Autoguidance
from suffuse.sampling.guidance.base import Denoise, GuidancePart, NoGuidance
from suffuse.sampling.guidance.classifier_free import CFG
from suffuse.sampling.guidance.interval import Interval
from suffuse.sampling.guidance.projected import APG
from suffuse.sampling.solvers.base import Estimate

__all__ = ["GradientGuidance", "InnerGuidance", "Inside", "slope_of"]

InnerGuidance = Annotated[GuidancePart, Joint("guidance", NoGuidance, CFG, APG, Autoguidance)]
"""Guidances that combine estimates; gradients go outside of them."""


def slope_of(values: Callable[[Tensor], Tensor], x: Tensor, owner: str) -> Tensor:
    """Gradient of each sample's value in that sample, (B, ...). It reaches neither weights nor other samples.

    Args:
        values: (B, ...) -> (B,), each from its own sample alone.
        x: Where, (B, ...).
        owner: What gives the values, for messages.

    Raises:
        UsageError: Not one number a sample, or none that has a gradient.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        found = values(leaf)
        if tuple(found.shape) != (len(x),):
            raise UsageError(f"{owner} gave shape {tuple(found.shape)} for {len(x)} samples; give one number for each")
        if not found.requires_grad:
            raise UsageError(
                f"{owner} gave values without a gradient; compute them in torch from what is handed in, without no_grad"
            )
        # Not `backward`, which would fill the weights' `grad`.
        (slope,) = torch.autograd.grad(found.sum(), leaf)
    return slope.detach()


class Inside:
    """A model with the guidance that combines its estimates; counts the evaluations that a slope goes through.

    Args:
        denoise: The model's.
        guidance: What combines its estimates.
        path: Of the model.
    """

    def __init__(self, denoise: Denoise, guidance: GuidancePart, path: PathPart) -> None:
        self.path, self._denoise, self._rows = path, denoise, 0
        self._guided = guidance.bind(self._counted, path)

    def _counted(self, x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
        self._rows += len(x)
        return self._denoise(x, t, cond, call)

    def __call__(self, x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
        """The estimate."""
        return self._guided(x, t, cond, call)

    def slope(
        self, x: Tensor, t: float, cond: Conditions | None, call: Call, values: Callable[[Tensor], Tensor], owner: str
    ) -> tuple[Estimate, Tensor]:
        """The estimate, and the gradient in x of a value of its x0 for each sample, (B, ...).

        Args:
            x: Noisy samples, (B, ...).
            t: Their time.
            cond: Conditions of the samples.
            call: Context of the call.
            values: Estimates of x0 to a number each, (B, ...) -> (B,).
            owner: What gives the values, for messages.
        """
        before, estimates = self._rows, []

        def through(leaf: Tensor) -> Tensor:
            estimates.append(self._guided(leaf, t, cond, call))
            return values(estimates[0].x0)

        slope = slope_of(through, x, owner)
        estimate = estimates[0]
        # What was evaluated forwards is gone through backwards.
        passes = (self._rows - before) / len(x) + estimate.evaluations
        return replace(estimate, x0=estimate.x0.detach(), backward=estimate.backward + passes), slope


class GradientGuidance(Interval, abc.ABC):
    """A guidance that follows a gradient; another, which combines estimates, may act inside of it.

    Attributes:
        inner: The guidance inside, such as `cfg`.
    """

    inner: InnerGuidance = NoGuidance()

    @model_validator(mode="after")
    def _of_estimates(self) -> Self:
        # A gradient of a gradient is not taken: `slope_of` would cut it off without a word.
        if self.inner.renoises or isinstance(self.inner, GradientGuidance):
            raise ValueError(
                f"inner guidance {self.inner.kind!r} gives more than an estimate of x0 that a gradient could go "
                "through; use cfg, apg or autoguidance inside"
            )
        return self

    @property
    def most_evaluations(self) -> int:
        """Those of the guidance inside; what gradients cost is counted as `backward`."""
        return self.inner.most_evaluations

    @property
    def needs_absent(self) -> bool:
        """Whether the guidance inside does."""
        return self.inner.needs_absent

    @property
    @abc.abstractmethod
    def idle(self) -> bool:
        """Whether its settings ask for nothing beyond the guidance inside."""

    @abc.abstractmethod
    def steered(
        self, inside: Inside, x: Tensor, t: float, cond: Conditions | None, call: Call, level: Level
    ) -> Estimate:
        """The estimate with what the gradient adds.

        Args:
            inside: The model with the guidance inside.
            x: Noisy samples, (B, ...).
            t: Their time.
            cond: Conditions of the samples.
            call: Context of the call.
            level: The path's coefficients at t.
        """

    def plain(self, cond: Conditions | None) -> Conditions | None:
        """What the model is told of the conditions."""
        return cond

    def bind(self, denoise: Denoise, path: PathPart) -> Denoise:
        """Wrap the guidance inside; the interval is read off the path."""
        inside = Inside(denoise, self.inner, path)

        def guided(x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
            level = path.level(t)
            if self.idle or not self.covers(level):
                return inside(x, t, self.plain(cond), call)
            return self.steered(inside, x, t, cond, call, level)

        return guided
