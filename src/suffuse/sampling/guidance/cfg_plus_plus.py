"""CFG++: the data are guided, and the noise to go on with is that of the unconditional estimate."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.process import PathPart, eps_of
from suffuse.sampling.guidance.base import Denoise
from suffuse.sampling.guidance.classifier_free import halves
from suffuse.sampling.guidance.interval import Interval
from suffuse.sampling.solvers.base import Estimate

__all__ = ["CFGPlusPlus"]


class CFGPlusPlus(Interval):
    """D = D_uncond + scale (D_cond - D_uncond), and the step goes on with the noise of D_uncond; for DDIM and DDPM.

    On DDIM a step of width h in half log-SNR is that of `cfg` with scale / (1 - exp(-h)): the finer the grid, the
    stronger. So 1 is not none here; what is at most 1 is how far a single step may reach, and the step to clean data
    never goes beyond D_cond.

    Source: chung2024cfgpp, Algorithm 2.

    Attributes:
        scale: 0 unconditional, 1 most. The authors offer 0.6 in the place of `cfg` with 7.5, at 50 steps.
        together: Evaluate both halves as one batch of 2B; else one after the other, with half the memory.
    """

    kind: Literal["cfgpp"] = "cfgpp"
    renoises: ClassVar[bool] = True
    scale: float = Field(default=0.6, ge=0, le=1)
    together: bool = True

    @property
    def most_evaluations(self) -> int:
        """Two, or one at scale 0."""
        return 1 if self.scale == 0.0 else 2

    @property
    def needs_absent(self) -> bool:
        """At every scale."""
        return True

    def bind(self, denoise: Denoise, path: PathPart) -> Denoise:
        """Wrap; the interval is read off the path."""

        def guided(x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
            if not cond:
                raise UsageError(f"cfgpp with scale {self.scale:g} needs conditions; give them, or use no guidance")
            level = path.level(t)
            if not self.covers(level):
                return denoise(x, t, cond, call)
            if self.scale == 0.0:
                return denoise(x, t, cond.absent(), call.replace(streams=("uncond",)))
            uncond, given = halves(denoise, x, t, cond, call, together=self.together)
            return Estimate(uncond.lerp(given, self.scale), noise=eps_of(x, uncond, level))

        return guided
