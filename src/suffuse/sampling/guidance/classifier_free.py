"""Classifier-free guidance, everywhere or within an interval of noise levels, and its rescaled form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError, unknown_name
from suffuse.process import Level, PathPart
from suffuse.sampling.guidance.base import Denoise
from suffuse.sampling.guidance.interval import Interval
from suffuse.sampling.solvers.base import Estimate

__all__ = ["CFG", "Combine", "halves", "scale_from"]

Combine = Callable[[Tensor, Tensor, Tensor, Level, Call], Tensor]
"""(noisy sample, estimate without condition, estimate with it, level, call) -> guided estimate."""

# What a number means elsewhere, over our scale: added to it.
_CONVENTIONS = {
    "scale": 0.0,  # Imagen, GLIDE, latent diffusion, DiT, EDM2, diffusers' guidance_scale
    "paper": 1.0,  # ho2022cfg's w: (1 + w) cond - w uncond
    "classifier": 0.0,  # classifier guidance on an unconditional network
    "classifier_conditional": 1.0,  # classifier guidance on a conditional one
    "perturbed": 1.0,  # D + s (D - D_bad), as perturbed-attention guidance writes it
}


def scale_from(value: float, convention: str) -> float:
    """Our scale (1 none, 0 unconditional) for a number in another convention.

    Args:
        value: The number.
        convention: `scale` is ours, and that of Imagen, latent diffusion, DiT and diffusers; `paper` is ho2022cfg's w;
            `classifier` and `classifier_conditional` are scales of classifier guidance on an unconditional and on a
            conditional network; `perturbed` is s in D + s (D - D_bad).

    Raises:
        UsageError: No such convention.
    """
    if convention not in _CONVENTIONS:
        raise unknown_name("convention of guidance scales", convention, _CONVENTIONS)
    return value + _CONVENTIONS[convention]


def halves(
    denoise: Denoise, x: Tensor, t: float, cond: Conditions, call: Call, *, together: bool
) -> tuple[Tensor, Tensor]:
    """Estimates without and with the condition, (B, ...) each.

    Args:
        denoise: The model's.
        x: Noisy samples, (B, ...).
        t: Their time.
        cond: Conditions of the samples.
        call: Context of the call.
        together: Evaluate both as one batch of 2B; else one after the other.
    """
    if not together:
        uncond = denoise(x, t, cond.absent(), call.replace(streams=("uncond",))).x0
        return uncond, denoise(x, t, cond, call).x0
    seeds = None if call.seeds is None else call.seeds.repeat(2)
    both = call.replace(streams=("uncond", "cond"), seeds=seeds)
    stacked = denoise(x.repeat(2, *(1,) * (x.ndim - 1)), t, cond.both, both).x0
    uncond, given = stacked.chunk(2)
    return uncond, given


class CFG(Interval):
    """D = D_uncond + scale (D_cond - D_uncond).

    Scale 1 means none and makes one call, bit-equal to the plain model. Other conventions: `scale_from`.

    Source: ho2022cfg, Eq. 6; the interval: kynkaanniemi2024interval, Eq. 5; rescaling: lin2024flawed, Eqs. 14 to 16.

    Attributes:
        scale: 1 none, 0 unconditional, above 1 sharper.
        together: Evaluate both halves as one batch of 2B; else one after the other, with half the memory.
        rescale: Share of the guided estimate that is brought back to the deviation of the conditional one; 0.7 in the
            source.
        rescale_in: Of what the deviations are: v as in the source, the data or the noise; it matters which.
    """

    kind: Literal["cfg"] = "cfg"
    scale: float = 1.0
    together: bool = True
    rescale: float = Field(default=0.0, ge=0, le=1)
    rescale_in: Literal["v", "x0", "eps"] = "v"

    @property
    def most_evaluations(self) -> int:
        """Two, or one at scale 1 or 0."""
        return 1 if self.scale in (0.0, 1.0) else 2

    @property
    def needs_absent(self) -> bool:
        """Unless the scale is 1."""
        return self.scale != 1.0

    def combiner(self) -> Combine:
        """How estimates become one; made anew for each trajectory, so that it may remember."""
        return self._combined

    def bind(self, denoise: Denoise, path: PathPart) -> Denoise:
        """Wrap; the interval is read off the path."""
        combine = self.combiner()

        def guided(x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
            if self.scale == 1.0:
                return denoise(x, t, cond, call)
            if not cond:
                raise UsageError(f"cfg with scale {self.scale:g} needs conditions; give them, or use scale 1")
            level = path.level(t)
            if not self.covers(level):
                return denoise(x, t, cond, call)
            if self.most_evaluations == 1:  # the scale is 0
                return denoise(x, t, cond.absent(), call.replace(streams=("uncond",)))
            uncond, given = halves(denoise, x, t, cond, call, together=self.together)
            return Estimate(combine(x, uncond, given, level, call))

        return guided

    def _combined(self, x: Tensor, uncond: Tensor, given: Tensor, level: Level, call: Call) -> Tensor:
        guided = uncond.lerp(given, self.scale)
        return guided if self.rescale == 0 else self._rescaled(x, guided, given, level)

    def _rescaled(self, x: Tensor, guided: Tensor, given: Tensor, level: Level) -> Tensor:
        """The guided estimate with its deviation brought towards that of the conditional one: (B, ...)."""
        # Each of the three is b x + a x0; what the estimate is in it, and back.
        alpha, sigma = float(level.alpha), float(level.sigma)
        a, b = {
            "x0": (1.0, 0.0),
            "eps": (-alpha / sigma, 1 / sigma),
            "v": (-(alpha**2) / sigma - sigma, alpha / sigma),
        }[self.rescale_in]
        if abs(a) < 1e-8:  # the noise of a sample that is all noise, whatever the estimate
            return guided
        both = [b * x + a * x0 for x0 in (guided, given)]
        dims = list(range(1, x.ndim))
        stds = [torch.std(value, dim=dims, keepdim=True) for value in both]
        factor = self.rescale * stds[1] / stds[0].clamp_min(1e-12) + (1 - self.rescale)
        return (both[0] * factor - b * x) / a
