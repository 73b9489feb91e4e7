"""Time conditions: what the network is told about the time. Path, target, weight and solver keep the true time.

The Denoiser applies them, in training and in sampling alike, so that the two cannot disagree.
"""

from __future__ import annotations

import abc
import functools
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import Joint, Part
from suffuse.process.path import PathPart

__all__ = ["ConstantTime", "Identity", "LogSigma", "Remap", "SharedTimesteps", "TimeConditionPart", "near_clean"]


def near_clean(path: PathPart, below: float | None = None) -> float:
    """Time under which data count as nearly clean: the given one, or a tenth of the path (100 of 1000 indices).

    Raises:
        UsageError: None is given on a path whose times are sigmas.
    """
    if below is not None:
        return below
    if path.told_scale is None:
        raise UsageError(
            f"'below' has no default on path {path.kind!r}, whose times are sigmas; set it to a sigma (time.below, or "
            "objective.time_penalty.below)"
        )
    return (path.indices or path.t_max) / 10


class TimeConditionPart(Part, abc.ABC):
    """Map from the true time to what the network is told."""

    kind: str

    @abc.abstractmethod
    def told(self, t: Tensor, path: PathPart) -> Tensor:
        """What the network's time embedding gets: (B,) float64 -> (B,) float64."""

    def check(self, path: PathPart) -> None:
        """Raise a `UsageError` when the condition cannot be used on the path."""


class Identity(TimeConditionPart):
    """The true time, scaled to 0..1000 on continuous paths and as it is on tables.

    Attributes:
        scale: Factor on the path's time; None for the path's own.
    """

    kind: Literal["identity"] = "identity"
    scale: float | None = Field(default=None, gt=0)

    def told(self, t: Tensor, path: PathPart) -> Tensor:
        """scale * t."""
        return t * self.scale_on(path)

    def scale_on(self, path: PathPart) -> float:
        """The factor that counts on a path."""
        scale = self.scale if self.scale is not None else path.told_scale
        if scale is None:
            raise UsageError(
                f"time condition 'identity' has no scale on path {path.kind!r}, whose times span decades; use "
                "'log_sigma', or set time.scale"
            )
        return scale

    def check(self, path: PathPart) -> None:
        """A path without a natural unit needs a scale."""
        self.scale_on(path)


class LogSigma(TimeConditionPart):
    """A quarter of log(sigma / alpha). Source: karras2022edm, Table 1 (c_noise)."""

    kind: Literal["log_sigma"] = "log_sigma"
    scale: float = Field(default=0.25, gt=0)

    def told(self, t: Tensor, path: PathPart) -> Tensor:
        """-scale * lambda."""
        return -self.scale * path.half_log_snr(t)


class Remap(TimeConditionPart):
    """A smooth re-parametrisation of time that spreads out the noisy end of the singularity near clean data.

    Source: yang2024etsdm, Appendix D.3.3, where it serves as an alternative to sharing. `by` sigma tells
    1000 sigma(t); `by` power tells 1000 (relative time)**power.
    """

    kind: Literal["remap"] = "remap"
    by: Literal["sigma", "power"] = "sigma"
    power: float = Field(default=0.5, gt=0)

    def told(self, t: Tensor, path: PathPart) -> Tensor:
        """1000 sigma(t) / sigma(t_max), or 1000 (relative time)**power; both run from 0 to 1000."""
        if self.by == "sigma":
            return 1000 * path.sigma(t) / path.sigma(torch.tensor(path.t_max, dtype=torch.float64)).item()
        return 1000 * ((t - path.t_clean) / (path.t_max - path.t_clean)) ** self.power


class ConstantTime(TimeConditionPart):
    """The network is told nothing: always zero."""

    kind: Literal["constant"] = "constant"

    def told(self, t: Tensor, path: PathPart) -> Tensor:
        """Zero."""
        return torch.zeros_like(t)


@functools.lru_cache(maxsize=64)
def _edges(below: float, intervals: int, power: float, whole: bool, device: torch.device) -> Tensor:
    """Edges of the sub-intervals of [0, below): (intervals + 1,) float64, whole numbers on tables."""
    edges = below * (torch.arange(intervals + 1, dtype=torch.float64) / intervals) ** power
    return (edges.round() if whole else edges).to(device)


class SharedTimesteps(TimeConditionPart):
    """E-TSDM: within each sub-interval of the times near clean data the network is told the same time.

    On variance-preserving paths with beta(0) > 0 the optimal eps-network has an infinite derivative in time at clean
    data; told the same time throughout a sub-interval, the network's derivative there is exactly zero.

    Source: yang2024etsdm, Section 4. Below `below` the time is replaced by the left edge of its sub-interval; the path,
    the target, the weight and the solver keep the true time.

    Attributes:
        below: Times under this are shared, in the path's unit; None for a tenth of the path (100 of 1000 indices, 0.1
            of a unit of time), the paper's value.
        intervals: Number of sub-intervals; the paper's 5.
        power: Edges at below * (k / intervals)**power: 1 is the paper's uniform division, above 1 is finer near data.
        then: How the shared time is told.
    """

    kind: Literal["shared"] = "shared"
    below: float | None = Field(default=None, gt=0)
    intervals: int = Field(default=5, ge=1)
    power: float = Field(default=1.0, gt=0)
    then: Annotated[TimeConditionPart, Joint("time", Identity, LogSigma, Remap)] = Identity()

    def shared(self, t: Tensor, path: PathPart) -> Tensor:
        """The left edge of the sub-interval for times under `below`, the time itself above: (B,) -> (B,) float64."""
        below = near_clean(path, self.below)
        edges = _edges(below, self.intervals, self.power, path.indices is not None, t.device)
        # Times computed in floating point may fall a rounding error short of an edge that they are meant to be on.
        nudged = t + 1e-6 * below / self.intervals
        left = (torch.searchsorted(edges, nudged.contiguous(), right=True) - 1).clamp(0, self.intervals - 1)
        return torch.where(nudged < below, edges[left], t)

    def told(self, t: Tensor, path: PathPart) -> Tensor:
        """The shared time, told by `then`."""
        return self.then.told(self.shared(t, path), path)

    def check(self, path: PathPart) -> None:
        """The shared range must lie inside the path and its edges must be distinct."""
        below = near_clean(path, self.below)
        if below > (path.indices or path.t_max):
            raise UsageError(f"time.below is {below}, beyond the path's last time {path.t_max}; make it smaller")
        edges = _edges(below, self.intervals, self.power, path.indices is not None, torch.device("cpu"))
        if bool((edges.diff() <= 0).any()):
            raise UsageError(
                f"time.intervals is {self.intervals} with power {self.power}: {below:g} indices cannot be divided so; "
                "use fewer intervals or a power nearer 1"
            )
        if isinstance(self.then, LogSigma) and path.t_clean == 0:
            raise UsageError(
                "time condition 'shared' told by 'log_sigma' needs a path whose first edge has noise; on "
                f"{path.kind!r} the first edge is clean data (log sigma is -inf). Use then: identity or remap"
            )
        self.then.check(path)
