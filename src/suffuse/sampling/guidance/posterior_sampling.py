"""Diffusion posterior sampling: samples that agree with a measurement, moved after each step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.process import Level
from suffuse.sampling.guidance.gradient import GradientGuidance, Inside
from suffuse.sampling.guidance.measurements import Measurement
from suffuse.sampling.solvers.base import Estimate

__all__ = ["DPS"]

_NAME = "measurement"


class DPS(GradientGuidance):
    """Samples given y = A(x0) + noise: step - zeta times the gradient of |y - A(D(x_t))|**2 over |y - A(D(x_t))|.

    The y of each sample is its condition `measurement`, (B, ...) as A gives it; NaN marks what was not measured, and
    samples without the condition are left alone. The model is not told of it. Any solver whose steps remember nothing
    will do; of steps with several evaluations the first decides.

    Source: chung2023dps, Algorithm 1, with its step size over the norm, which is that of each sample.
    Deviation: the authors' code takes the gradient of the norm and not of its square, so that its number is twice
    `zeta`. On paths that do not preserve the variance the samples are moved as they would be on one that does, at the
    same sigma / alpha: so the path does not matter.

    Attributes:
        zeta: How far; 0 none. A step's gradient does not shrink with what is left to go, so samples end about `zeta`
            from y, in the norm of all that was measured. 0.3 to 1 is usual for large images at 1000 steps.
        measurement: A.
    """

    kind: Literal["dps"] = "dps"
    shifts: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = (_NAME,)
    zeta: float = Field(default=0.5, ge=0)
    measurement: Measurement

    @property
    def idle(self) -> bool:
        """At zeta 0."""
        return self.zeta == 0.0

    def plain(self, cond: Conditions | None) -> Conditions | None:
        """All but the measurement."""
        if not cond:
            return cond
        values = {name: value for name, value in cond.values.items() if name != _NAME}
        return Conditions(values, {name: cond.present[name] for name in values}, cond.instead)

    def steered(
        self, inside: Inside, x: Tensor, t: float, cond: Conditions | None, call: Call, level: Level
    ) -> Estimate:
        """One evaluation, and one pass backward through all of it in a step's first."""
        if cond is None or _NAME not in cond.values:
            raise UsageError(
                "guidance 'dps' needs what was measured of each sample; give it as condition 'measurement', or set "
                "zeta to 0"
            )
        if call.step is None or not call.times:
            raise UsageError("guidance 'dps' moves samples after steps, but this call is of none; use `sample`")
        if call.substep:
            return inside(x, t, self.plain(cond), call)
        measured, present = cond.values[_NAME].to(x), cond.present[_NAME]

        def distance(x0: Tensor) -> Tensor:
            seen = self.measurement.of(x0)
            if seen.shape != measured.shape:
                raise UsageError(
                    f"condition 'measurement' has shape {tuple(measured.shape)}, but {self.measurement.kind!r} of "
                    f"these samples has {tuple(seen.shape)}; give what it measures"
                )
            known = ~measured.isnan() & present.view(-1, *(1,) * (measured.ndim - 1))
            residual: Tensor = (measured - seen).where(known, 0.0)
            norms: Tensor = torch.linalg.vector_norm(residual.flatten(1), dim=1)
            return norms

        estimate, slope = inside.slope(x, t, self.plain(cond), call, distance, "the measurement")
        # The gradient of the square over the norm is twice the norm's, which is 0 where they agree.
        spread = _spread(level) * _spread(inside.path.level(call.times[call.step + 1]))
        return replace(estimate, shift=-2 * self.zeta * spread * slope)


def _spread(level: Level) -> float:
    """What samples of variance-preserving paths are multiplied by: sqrt(alpha**2 + sigma**2)."""
    return math.hypot(float(level.alpha), float(level.sigma))
