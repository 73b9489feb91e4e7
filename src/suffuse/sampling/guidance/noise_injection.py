"""Prior noise injection: a little of the starting noise comes back late on the way, for texture that reuse has lost.

Source: li2024fasterdiffusion, Section 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.process import PathPart
from suffuse.sampling.guidance.base import Denoise, GuidancePart, NoGuidance
from suffuse.sampling.guidance.gradient import InnerGuidance
from suffuse.sampling.solvers.base import Estimate

__all__ = ["NoiseInjection"]


class NoiseInjection(GuidancePart):
    """Before each step that starts late enough, `share` times the noise of the start is added to the samples.

    On paths that do not preserve the variance as much is added as on one that does, at the same sigma / alpha. For
    pipelines of diffusers see `callback`.

    Attributes:
        share: Of the noise; 0 none.
        below: Steps that start below this share of the path's time get it.
        inner: The guidance that makes the estimates.
    """

    kind: Literal["noise_injection"] = "noise_injection"
    shifts: ClassVar[bool] = True
    share: float = Field(default=0.003, ge=0)
    below: float = Field(default=0.5, ge=0, le=1)
    inner: InnerGuidance = NoGuidance()

    @property
    def most_evaluations(self) -> int:
        """Those of the guidance inside."""
        return self.inner.most_evaluations

    @property
    def needs_absent(self) -> bool:
        """As the guidance inside."""
        return self.inner.needs_absent

    def bind(self, denoise: Denoise, path: PathPart) -> Denoise:
        """Remembers the noise of the start."""
        inside = self.inner.bind(denoise, path)
        if self.share == 0:
            return inside
        noise: list[Tensor] = []

        def injected(x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
            estimate = inside(x, t, cond, call)
            if call.step is None or not call.times:
                raise UsageError(
                    "guidance 'noise_injection' adds between steps, but this call is of none; use `sample`"
                )
            if call.substep:
                return estimate
            if call.step == 0:
                noise[:] = [x / float(path.level(call.times[0]).sigma)]
            # Never after the last step, where it would be seen as grain.
            later = call.times[call.step + 1]
            if call.step + 2 == len(call.times) or not self._late(later, path):
                return estimate
            level = path.level(later)
            return replace(estimate, shift=self.share * math.hypot(float(level.alpha), float(level.sigma)) * noise[0])

        return injected

    def _late(self, t: float, path: PathPart) -> bool:
        return (t - path.t_clean) / (path.t_max - path.t_clean) < self.below

    def callback(self, start: Tensor, total: int = 1000) -> Callable[..., dict[str, Any]]:
        """The same for a diffusers pipeline on a variance-preserving path: its `callback_on_step_end`.

        Args:
            start: The noise that the pipeline starts with; hand it in as its `latents` too.
            total: Training steps of its scheduler.
        """

        def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            times = pipe.scheduler.timesteps
            if step + 1 < len(times) and float(times[step + 1]) / total < self.below:
                tensors["latents"] = tensors["latents"] + self.share * start.to(tensors["latents"])
            return tensors

        return on_step_end
