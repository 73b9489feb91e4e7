"""Classifier-free guidance, everywhere or within an interval of noise levels."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.process import PathPart
from suffuse.sampling.guidance.base import Denoise, GuidancePart
from suffuse.sampling.solvers.base import Estimate

__all__ = ["CFG"]


class CFG(GuidancePart):
    """D = D_uncond + scale (D_cond - D_uncond).

    Scale 1 means none and makes one call, bit-equal to the plain model. The paper's w is scale - 1.

    Source: ho2022cfg, Eq. 6; the interval: kynkaanniemi2024interval, Eq. 5.

    Attributes:
        scale: 1 none, 0 unconditional, above 1 sharper.
        above: Guide only where sigma / alpha is greater than this.
        up_to: Guide only where sigma / alpha is at most this.
        together: Evaluate both halves as one batch of 2B; else one after the other, with half the memory.
    """

    kind: Literal["cfg"] = "cfg"
    scale: float = 1.0
    above: float = Field(default=0.0, ge=0)
    up_to: float = Field(default=math.inf, gt=0)
    together: bool = True

    @model_validator(mode="after")
    def _interval(self) -> CFG:
        if self.above >= self.up_to:
            raise ValueError(f"above {self.above} is not below up_to {self.up_to}; swap them or widen the interval")
        return self

    @property
    def most_evaluations(self) -> int:
        """Two, or one at scale 1 or 0."""
        return 1 if self.scale in (0.0, 1.0) else 2

    def bind(self, denoise: Denoise, path: PathPart) -> Denoise:
        """Wrap; the interval is read off the path."""

        def guided(x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
            if self.scale == 1.0:
                return denoise(x, t, cond, call)
            if not cond:
                raise UsageError(f"cfg with scale {self.scale:g} needs conditions; give them, or use scale 1")
            lam = float(path.level(t).half_log_snr)
            if not self.above < math.exp(-lam) <= self.up_to:
                return denoise(x, t, cond, call)
            if self.scale == 0.0:
                return denoise(x, t, cond.absent(), call.replace(streams=("uncond",)))
            uncond, given = self._halves(denoise, x, t, cond, call)
            return Estimate(uncond.lerp(given, self.scale))

        return guided

    def _halves(self, denoise: Denoise, x: Tensor, t: float, cond: Conditions, call: Call) -> tuple[Tensor, Tensor]:
        """Estimates without and with the condition, (B, ...) each."""
        if not self.together:
            uncond = denoise(x, t, cond.absent(), call.replace(streams=("uncond",))).x0
            return uncond, denoise(x, t, cond, call).x0
        seeds = None if call.seeds is None else call.seeds.repeat(2)
        both = call.replace(streams=("uncond", "cond"), seeds=seeds)
        stacked = denoise(x.repeat(2, *(1,) * (x.ndim - 1)), t, cond.absent().cat(cond), both).x0
        uncond, given = stacked.chunk(2)
        return uncond, given
