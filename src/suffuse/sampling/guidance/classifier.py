"""Classifier guidance: up the gradient of a classifier that knows noisy samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.process import Level
from suffuse.sampling.guidance.gradient import GradientGuidance, Inside, slope_of
from suffuse.sampling.solvers.base import Estimate

__all__ = ["Classifier", "ClassifierGuidance", "moved"]

Classifier = Callable[[Tensor, float, Conditions | None], Tensor]
"""(noisy samples (B, ...), time, conditions) -> log p(conditions | noisy sample), (B,), up to a constant."""


def moved(estimate: Estimate, slope: Tensor, level: Level, scale: float, owner: str) -> Estimate:
    """The estimate whose score has scale times a gradient in x more: D + scale sigma**2 / alpha slope.

    Args:
        estimate: Of x0, (B, ...).
        slope: Gradient in the noisy samples, (B, ...).
        level: The path's coefficients, for the whole batch.
        scale: How much of it.
        owner: Kind of the guidance, for messages.

    Raises:
        UsageError: The level is pure noise.
    """
    alpha, sigma = float(level.alpha), float(level.sigma)
    if alpha == 0.0:
        raise UsageError(
            f"guidance {owner!r} divides by alpha, which is 0 at time {float(level.t):g}; set its up_to to a finite "
            "sigma / alpha, above which it does not act"
        )
    return replace(estimate, x0=estimate.x0 + scale * (sigma**2 / alpha) * slope)


class ClassifierGuidance(GradientGuidance):
    """D = D_inner + scale sigma**2 / alpha times the gradient in x_t of log p(y | x_t, t).

    With the exact classifier of an unconditional model it is `cfg` with the same scale. A conditional model is made
    unconditional by `inner=CFG(scale=0)`. The classifier is a function that no file can name, so this guidance is for
    Python and is not in the table. Its gradient is a pass backward, and no evaluation is counted for it.

    Source: dhariwal2021adm, Algorithm 2.
    Deviation: Algorithm 1 moves the mean of an ancestral step instead, which is the same to first order in the step.

    Attributes:
        scale: 0 none; that of dhariwal2021adm. See `scale_from` for the scales of `cfg` that it stands for.
        classifier: Log probabilities of the conditions; it sees noisy samples and their time.
    """

    kind: Literal["classifier"] = "classifier"
    scale: float = 1.0
    classifier: Classifier

    @property
    def idle(self) -> bool:
        """At scale 0."""
        return self.scale == 0.0

    def steered(
        self, inside: Inside, x: Tensor, t: float, cond: Conditions | None, call: Call, level: Level
    ) -> Estimate:
        """One evaluation, and one pass backward through the classifier."""
        slope = slope_of(lambda leaf: self.classifier(leaf, t, cond), x, "the classifier")
        estimate = moved(inside(x, t, cond, call), slope, level, self.scale, self.kind)
        return replace(estimate, backward=estimate.backward + 1.0)
