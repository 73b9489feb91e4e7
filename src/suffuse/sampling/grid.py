"""Grids: at which times a solver stops, from noise to data."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.process import PathPart

__all__ = ["GridPart", "Karras", "ListedTimes", "LogSNR", "Quadratic", "Uniform"]


class GridPart(Part, abc.ABC):
    """A rule for `steps` steps: `steps` times at which solvers evaluate, then the end.

    Attributes:
        steps: Number of solver steps.
        end: Where the last step arrives: `clean` is the path's t_clean (sigma = 0), `t_min` its least trained time.
    """

    kind: str
    steps: int = Field(default=20, ge=1)
    end: Literal["clean", "t_min"] = "clean"

    @abc.abstractmethod
    def nodes(self, path: PathPart) -> Tensor:
        """The `steps` times at which steps start, falling, (steps,) float64."""

    def last(self, path: PathPart) -> float:
        """Where the last step arrives."""
        return path.t_clean if self.end == "clean" else path.t_min

    def times(self, path: PathPart) -> tuple[float, ...]:
        """All steps + 1 times, strictly falling.

        Raises:
            UsageError: The rule cannot be used on the path, or gives equal neighbours.
        """
        times = (*self.nodes(path).tolist(), self.last(path))
        for earlier, later in itertools.pairwise(times):
            # Nodes that come from noise levels and back may miss an equal neighbour by rounding.
            if not later < earlier or math.isclose(earlier, later, abs_tol=1e-12):
                raise UsageError(
                    f"grid {self.kind!r} with {self.steps} steps does not fall from {earlier:g} to {later:g} on path "
                    f"{path.kind!r}; use falling times, fewer steps, or end: clean"
                )
        return times


class Uniform(GridPart):
    """Evenly spaced times.

    On a table of T indices `spacing` says which: trailing round(T (1 - i/N)) - 1 (lin2024flawed), leading
    (T // N) i + offset (song2021ddim), linspace round of linspace(0, T - 1, N). On a continuous path trailing goes from
    t_max to t_clean in N equal steps, linspace puts its N times from t_max to t_min.

    Attributes:
        spacing: The rule.
        offset: Added to the indices of `leading`; 1 in Stable Diffusion.
        spare: Take the first N of the N + 1 times that the rule gives for N + 1 steps, as DPM-Solver++ and UniPC are
            set up in diffusers.
    """

    kind: Literal["uniform"] = "uniform"
    spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    offset: int = Field(default=0, ge=0)
    spare: bool = False

    def nodes(self, path: PathPart) -> Tensor:
        """Times by spacing."""
        if self.spare:
            return self.replace(spare=False, steps=self.steps + 1).nodes(path)[:-1]
        total, n = path.indices, self.steps
        if total is None:
            if self.spacing == "leading" or self.offset:
                raise UsageError(
                    f"grid spacing 'leading' and offsets count the indices of a table, but path {path.kind!r} is "
                    "continuous; use spacing trailing or linspace"
                )
            if self.spacing == "trailing":
                return torch.linspace(path.t_max, path.t_clean, n + 1, dtype=torch.float64)[:-1]
            return torch.linspace(path.t_max, path.t_min, n, dtype=torch.float64)
        if n > total:
            raise UsageError(f"grid.steps is {n}, but the path has only {total} indices; use at most {total}")
        if self.spacing == "leading":
            nodes = torch.arange(n, dtype=torch.float64).flip(0) * (total // n) + self.offset
        elif self.spacing == "trailing":
            nodes = (total - torch.arange(n, dtype=torch.float64) * (total / n)).round() - 1
        else:
            nodes = torch.linspace(total - 1, 0, n, dtype=torch.float64).round()
        if nodes[0] > path.t_max:
            raise UsageError(f"grid.offset {self.offset} leads to index {nodes[0]:g}, past the last one {path.t_max:g}")
        return nodes


class Quadratic(GridPart):
    """Times quadratic in the step, dense near data. Source: song2021ddim, Appendix D.2.

    Attributes:
        share: Part of the path that is used; the paper starts at 0.8 of the table.
    """

    kind: Literal["quadratic"] = "quadratic"
    share: float = Field(default=0.8, gt=0, le=1)

    def nodes(self, path: PathPart) -> Tensor:
        """linspace(sqrt(share T), 0, N)**2, floored on tables; continuous paths end at t_min instead of 0."""
        if path.indices is not None:
            high = min(self.share * path.indices, path.t_max)
            return (torch.linspace(math.sqrt(high), 0, self.steps, dtype=torch.float64) ** 2).floor()
        ends = math.sqrt(self.share * path.t_max), math.sqrt(path.t_min)
        return torch.linspace(*ends, self.steps, dtype=torch.float64) ** 2


def _limits(grid: GridPart, path: PathPart, low: float | None, high: float | None) -> tuple[float, float]:
    """Range of sigma / alpha: as given, or the path's own."""
    ends = (-path.half_log_snr(torch.tensor([path.t_min, path.t_max], dtype=torch.float64))).exp().tolist()
    low, high = ends[0] if low is None else low, ends[1] if high is None else high
    if low <= 0 or high > 1e6:
        raise UsageError(
            f"grid {grid.kind!r} needs a finite range of noise, but path {path.kind!r} runs from sigma/alpha "
            f"{low:.3g} to {high:.3g}; set grid.sigma_min and grid.sigma_max (EDM uses 0.002 and 80)"
        )
    if low >= high:
        raise UsageError(
            f"grid.sigma_min is {low:g}, not below grid.sigma_max ({high:g}); swap them or widen the range"
        )
    return low, high


def _ramp_length(grid: GridPart, sigma_min: float | None) -> int:
    """Values of a ramp from which `steps` nodes are taken: one more when its last one is the end itself."""
    return grid.steps + (grid.end == "t_min" and sigma_min is None)


def _times_of_sigma(path: PathPart, sigma: Tensor, low: float, high: float) -> Tensor:
    """Times at which sigma / alpha has the given values, which must lie on the path."""
    times = path.t_of(-sigma.log())
    bottom, top = path.domain
    # The inverse of the path's own ends may miss them by rounding.
    slack = 1e-9 * (top - bottom)
    if times[-1] < bottom - slack or times[0] > top + slack:
        raise UsageError(
            f"grid range sigma/alpha {low:g} to {high:g} leaves the path {path.kind!r}, whose times run from "
            f"{bottom:g} to {top:g}; narrow grid.sigma_min and grid.sigma_max"
        )
    return times


class Karras(GridPart):
    """(sigma / alpha)**(1 / rho) evenly spaced. Source: karras2022edm, Eq. 5.

    Attributes:
        rho: 7 is the paper's; larger is denser near data.
        sigma_min: Least sigma / alpha; None for the path's own at t_min.
        sigma_max: Largest sigma / alpha; None for the path's own at t_max.
    """

    kind: Literal["karras"] = "karras"
    rho: float = Field(default=7.0, gt=0)
    sigma_min: float | None = Field(default=None, gt=0)
    sigma_max: float | None = Field(default=None, gt=0)

    def nodes(self, path: PathPart) -> Tensor:
        """`steps` times from sigma_max to sigma_min; with end t_min the ramp's last value is the end instead."""
        low, high = _limits(self, path, self.sigma_min, self.sigma_max)
        ends, count = (high ** (1 / self.rho), low ** (1 / self.rho)), _ramp_length(self, self.sigma_min)
        ramp = torch.linspace(*ends, count, dtype=torch.float64) ** self.rho
        return _times_of_sigma(path, ramp, low, high)[: self.steps]


class LogSNR(GridPart):
    """Evenly spaced half log-SNR. Source: lu2022dpmsolver, Section 3.4."""

    kind: Literal["log_snr"] = "log_snr"
    sigma_min: float | None = Field(default=None, gt=0)
    sigma_max: float | None = Field(default=None, gt=0)

    def nodes(self, path: PathPart) -> Tensor:
        """`steps` times from sigma_max to sigma_min; with end t_min the ramp's last value is the end instead."""
        low, high = _limits(self, path, self.sigma_min, self.sigma_max)
        count = _ramp_length(self, self.sigma_min)
        ramp = torch.linspace(math.log(high), math.log(low), count, dtype=torch.float64).exp()
        return _times_of_sigma(path, ramp, low, high)[: self.steps]


class ListedTimes(GridPart):
    """Times of your own, falling, in the path's unit; the end is added, and `steps` is their number."""

    kind: Literal["list"] = "list"
    listed: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _count(cls, data: Any) -> Any:  # Any: fields before validation
        if not isinstance(data, dict) or not isinstance(data.get("listed"), Sequence):
            return data  # the fields' own checks say what is wrong
        steps = len(data["listed"])
        if data.get("steps", steps) != steps:
            raise ValueError(f"steps is {data['steps']}, but `listed` has {steps} times; leave steps out")
        return {**data, "steps": max(steps, 1)}

    def nodes(self, path: PathPart) -> Tensor:
        """As listed."""
        if max(self.listed) > path.domain[1]:
            raise UsageError(
                f"grid.listed has the time {max(self.listed):g}, past the last one of path {path.kind!r}, "
                f"{path.domain[1]:g}; list times in the path's unit"
            )
        return torch.tensor(self.listed, dtype=torch.float64)
