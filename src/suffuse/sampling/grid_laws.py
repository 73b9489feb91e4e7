"""Grids by other laws: shifted towards noise, tables of Align Your Steps, and the beta law."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.process import PathPart
from suffuse.sampling.grid import GridPart

__all__ = ["AlignYourSteps", "BetaLaw", "Shifted"]

_PURE_NOISE = -16.0  # half log-SNR
# sigma / alpha at the ends of ten steps, noise first, of which the last stands for clean data; sabour2024ays, Section 5
# and the tables that came with it.

_TABLES = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def _times(grid: GridPart, path: PathPart, sigma: Tensor) -> Tensor:
    """Times at which sigma / alpha has the given values, which must lie on the path."""
    times, (bottom, top) = path.t_of(-sigma.log()), path.domain
    slack = 1e-9 * (top - bottom)
    if float(times.min()) < bottom - slack or float(times.max()) > top + slack:
        ends = path.half_log_snr(torch.tensor([path.t_min, path.t_max], dtype=torch.float64)).neg().exp().tolist()
        raise UsageError(
            f"grid {grid.kind!r} asks for sigma/alpha from {sigma[-1].item():g} to {sigma[0].item():g}, but path "
            f"{path.kind!r} runs from {ends[0]:.3g} to {ends[1]:.3g}; choose another grid"
        )
    return times


class Shifted(GridPart):
    """Even times, then the half log-SNR lowered by log(shift): more steps where there is more noise.

    On the flow path t becomes shift t / (1 + (shift - 1) t), which is SD3's; on any other path the same levels are
    meant. Of resolution: shift = sqrt(tokens / base tokens); Flux's is exp(mu).

    Source: esser2024sd3, Eq. 23.

    Attributes:
        shift: 3 for SD3 at 1024x1024; 1 leaves the times even.
        spacing: As for `Uniform` on a continuous path: trailing goes on to clean data in equal steps, linspace puts its
            last time at t_min.
    """

    kind: Literal["shifted"] = "shifted"
    shift: float = Field(default=3.0, ge=1)
    spacing: Literal["trailing", "linspace"] = "trailing"

    def nodes(self, path: PathPart) -> Tensor:
        """Times by spacing, shifted, from the path's noisiest on."""
        n, top = self.steps, torch.tensor([path.t_max], dtype=torch.float64)
        most = path.half_log_snr(top)
        # A path that does not reach pure noise has nothing beyond its end: the even times start where the shift leads
        # there.
        pure = float(most) < _PURE_NOISE
        start = path.t_max if pure else path.t_of(most + math.log(self.shift)).item()
        even = (
            torch.linspace(start, path.t_clean, n + 1, dtype=torch.float64)[:-1]
            if self.spacing == "trailing"
            else torch.linspace(start, path.t_min, n, dtype=torch.float64)
        )
        times = path.t_of(path.half_log_snr(even[1:]) - math.log(self.shift))
        return torch.cat([top, times])


class AlignYourSteps(GridPart):
    """Levels that were optimised for a model at ten steps; other numbers of steps by interpolation of log sigma.

    Source: sabour2024ays.

    Attributes:
        model: Stable Diffusion 1.5, SDXL, or Stable Video Diffusion.
    """

    kind: Literal["ays"] = "ays"
    steps: int = Field(default=10, ge=1)
    model: Literal["sd15", "sdxl", "svd"] = "sd15"

    def nodes(self, path: PathPart) -> Tensor:
        """The table's levels, or levels between them."""
        table = np.log(_TABLES[self.model])
        places = np.linspace(0, len(table) - 1, self.steps + 1)[:-1]
        sigma = torch.from_numpy(np.exp(np.interp(places, np.arange(len(table)), table)))
        # A model's own prior may end a hair below the printed value.
        lam = path.half_log_snr(torch.tensor([path.t_max], dtype=torch.float64))
        highest = lam.neg().exp()
        sigma[0] = torch.where((sigma[0] > highest) & (sigma[0] < highest * 1.001), highest, sigma[0])
        return _times(self, path, sigma)


class BetaLaw(GridPart):
    """sigma / alpha at quantiles of a beta law: many steps at both ends, few between.

    Source: lee2024beta.

    Attributes:
        a, b: Of the law.
        sigma_min: Least sigma / alpha; None for the path's own at t_min.
        sigma_max: Largest sigma / alpha; None for the path's own at t_max.
    """

    kind: Literal["beta"] = "beta"
    a: float = Field(default=0.6, gt=0)
    b: float = Field(default=0.6, gt=0)
    sigma_min: float | None = Field(default=None, gt=0)
    sigma_max: float | None = Field(default=None, gt=0)

    def nodes(self, path: PathPart) -> Tensor:
        """`steps` times from sigma_max to sigma_min."""
        from scipy.stats import beta  # half a second to import, for those who ask for it

        ends = path.half_log_snr(torch.tensor([path.t_min, path.t_max], dtype=torch.float64)).neg().exp().tolist()
        low = ends[0] if self.sigma_min is None else self.sigma_min
        high = ends[1] if self.sigma_max is None else self.sigma_max
        if not 0 < low < high < 1e6:
            raise UsageError(
                f"grid 'beta' needs a finite range of noise, but has sigma/alpha from {low:.3g} to {high:.3g} on path "
                f"{path.kind!r}; set grid.sigma_min and grid.sigma_max"
            )
        quantiles = beta.ppf(1 - np.linspace(0, 1, self.steps), self.a, self.b)
        return _times(self, path, torch.from_numpy(low + quantiles * (high - low)))
