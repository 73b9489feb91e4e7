"""Noise levels: at which times we train, given as quantile functions of a uniform number.

A quantile function makes every distribution low-discrepancy for free (stratified numbers in, stratified times out) and
leaves no state to save.
"""

from __future__ import annotations

import abc
import functools
import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.base.randomness import Draws
from suffuse.process.path import PathPart, check_below

__all__ = [
    "LogNormal",
    "LogStudentT",
    "LogitNormal",
    "NoiseLevelsPart",
    "UniformIndices",
    "UniformTimes",
    "spread_uniform",
]

# Below this share of a normal inside the path's range its quantiles lose digits.
_LEAST_SHARE = 1e-3


def spread_uniform(draws: Draws, stream: str) -> Tensor:
    """Uniform numbers that the samples of a step spread evenly over (0, 1), (B,) float64."""
    u = (draws.shared_uniform(stream) + draws.index.to(torch.float64) / draws.total) % 1.0
    # The shared number may land on 0 or 1 to rounding; quantiles of unbounded distributions need the inside.
    return u.clamp(1e-12, 1 - 1e-12)


class NoiseLevelsPart(Part, abc.ABC):
    """Distribution of training times.

    Attributes:
        stratified: Spread the batch's uniform numbers evenly, u_i = (u + i / B) mod 1, which lowers the variance of the
            loss without changing its mean (kingma2021vdm, Appendix I.1).
    """

    kind: str
    stratified: bool = False

    @abc.abstractmethod
    def quantile(self, u: Tensor, path: PathPart) -> Tensor:
        """Times at which the distribution function has the values u: (B,) in (0, 1) -> (B,) float64."""

    @abc.abstractmethod
    def cdf(self, t: Tensor, path: PathPart) -> Tensor:
        """Distribution function: the share of training below time t, (B,) float64 in [0, 1]."""

    def draw(self, draws: Draws, path: PathPart) -> Tensor:
        """Times for the samples of `draws`, (B,) float64."""
        return self.quantile(spread_uniform(draws, "times") if self.stratified else draws.uniform("times"), path)

    def check(self, path: PathPart) -> None:
        """Raise a `UsageError` when the distribution cannot be used on the path."""


class UniformIndices(NoiseLevelsPart):
    """Every index of a table equally often. Source: ho2020ddpm, Algorithm 1."""

    kind: Literal["indices"] = "indices"

    def quantile(self, u: Tensor, path: PathPart) -> Tensor:
        """floor(u T)."""
        return (u * _indices(path)).floor()

    def cdf(self, t: Tensor, path: PathPart) -> Tensor:
        """(floor(t) + 1) / T."""
        return ((t.floor() + 1) / _indices(path)).clamp(0, 1)

    def check(self, path: PathPart) -> None:
        """A continuous path has no indices."""
        _indices(path)


def _indices(path: PathPart) -> int:
    if path.indices is None:
        raise UsageError(
            f"noise levels 'indices' need a path with a table, but {path.kind!r} is continuous; set path.steps, or use "
            "noise levels 'uniform'"
        )
    return path.indices


class UniformTimes(NoiseLevelsPart):
    """Uniform over [t_min, t_max], real-valued on tables too.

    Attributes:
        beyond: Share of the range by which it reaches past the noisy end; those times become t_max. 0.08 in
            pernias2024wuerstchen, where 7 % of the samples are at the end.
    """

    kind: Literal["uniform"] = "uniform"
    beyond: float = Field(default=0.0, ge=0)

    def quantile(self, u: Tensor, path: PathPart) -> Tensor:
        """Affine, up to t_max."""
        t = path.t_min + u * (1 + self.beyond) * (path.t_max - path.t_min)
        return t.clamp_max(path.t_max) if self.beyond else t

    def cdf(self, t: Tensor, path: PathPart) -> Tensor:
        """Affine, and 1 at t_max."""
        share = ((t - path.t_min) / (path.t_max - path.t_min) / (1 + self.beyond)).clamp(0, 1)
        return torch.where(t >= path.t_max, torch.ones_like(share), share)


class LogNormal(NoiseLevelsPart):
    """log(sigma / alpha) is normal. Source: karras2022edm, Table 1.

    On paths with a bounded range of noise levels the normal is truncated to that range.
    """

    kind: Literal["log_normal"] = "log_normal"
    mean: float = -1.2
    std: float = Field(default=1.2, gt=0)

    def _range(self, path: PathPart) -> tuple[float, float]:
        """Normal distribution function at the ends of the path's domain."""
        log_sigma = -path.half_log_snr(torch.tensor(path.domain, dtype=torch.float64))
        first, last = _normal_cdf((log_sigma - self.mean) / self.std).tolist()
        return first, last

    def quantile(self, u: Tensor, path: PathPart) -> Tensor:
        """Through the normal quantile, within the path's range."""
        first, last = self._range(path)
        z = torch.special.ndtri(first + u * (last - first))
        return path.t_of(-(self.mean + self.std * z))

    def cdf(self, t: Tensor, path: PathPart) -> Tensor:
        """Normal distribution function of log(sigma / alpha), within the path's range."""
        first, last = self._range(path)
        value = _normal_cdf((-path.half_log_snr(t) - self.mean) / self.std)
        return ((value - first) / (last - first)).clamp(0, 1)

    def check(self, path: PathPart) -> None:
        """The path's range must hold some of the normal, or nothing is left of it but rounding errors."""
        first, last = self._range(path)
        if last - first < _LEAST_SHARE:
            raise UsageError(
                f"noise levels 'log_normal' with mean {self.mean} and std {self.std} fall outside path {path.kind!r} "
                f"(share inside: {last - first:.1g}); move mean nearer to the path's log(sigma / alpha) or raise std"
            )


class LogitNormal(NoiseLevelsPart):
    """logit of the relative time is normal. Source: esser2024sd3, Section 3.1."""

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)

    def quantile(self, u: Tensor, path: PathPart) -> Tensor:
        """sigmoid(mean + std z), stretched over [t_min, t_max]."""
        share = torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))
        return path.t_min + share * (path.t_max - path.t_min)

    def cdf(self, t: Tensor, path: PathPart) -> Tensor:
        """Normal distribution function of the logit."""
        share = ((t - path.t_min) / (path.t_max - path.t_min)).clamp(0, 1)
        return _normal_cdf((torch.logit(share) - self.mean) / self.std)


class LogStudentT(NoiseLevelsPart):
    """log(sigma / alpha) has Student's t law, between two noise levels: with few degrees of freedom its tail is flat.

    Source: lee2025tcm, Section 4.3.

    Attributes:
        df: Degrees of freedom; the paper's 0.01 puts a density like 1 / |log| between the ends.
        mean, scale: Of the law.
        low, high: Range of sigma / alpha that it is cut to.
    """

    kind: Literal["log_student_t"] = "log_student_t"
    df: float = Field(default=0.01, gt=0)
    mean: float = 0.0
    scale: float = Field(default=0.2, gt=0)
    low: float = Field(default=1.0, gt=0)
    high: float = Field(default=80.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> LogStudentT:
        check_below(low=self.low, high=self.high)
        return self

    def quantile(self, u: Tensor, path: PathPart) -> Tensor:
        """Read off a table of the distribution function: its inverse has no closed form."""
        logs, shares = _student_table(self, u.device)
        place = torch.searchsorted(shares, u).clamp(1, len(shares) - 1)
        below, above = shares[place - 1], shares[place]
        inside = (u - below) / (above - below)
        return path.t_of(-(logs[place - 1] + inside * (logs[place] - logs[place - 1])))

    def cdf(self, t: Tensor, path: PathPart) -> Tensor:
        """Of log(sigma / alpha), within the range."""
        logs, shares = _student_table(self, t.device)
        found = -path.half_log_snr(t)
        place = torch.searchsorted(logs, found).clamp(1, len(logs) - 1)
        inside = ((found - logs[place - 1]) / (logs[place] - logs[place - 1])).clamp(0, 1)
        return shares[place - 1] + inside * (shares[place] - shares[place - 1])

    def check(self, path: PathPart) -> None:
        """The range must lie on the path."""
        ends = torch.tensor([path.t_min, path.t_max], dtype=torch.float64)
        least, most = (-path.half_log_snr(ends)).exp().tolist()
        if self.low < least * (1 - 1e-9) or self.high > most * (1 + 1e-9):
            raise UsageError(
                f"noise levels 'log_student_t' run from sigma / alpha {self.low:g} to {self.high:g}, path "
                f"{path.kind!r} from {least:g} to {most:g}; narrow noise_levels.low and noise_levels.high"
            )
        if not _student_share(self) > _LEAST_SHARE:
            raise UsageError(
                f"noise levels 'log_student_t' with mean {self.mean:g}, scale {self.scale:g} and df {self.df:g} have "
                f"next to nothing between {self.low:g} and {self.high:g}; move the range nearer, or raise scale"
            )


def _student_share(part: LogStudentT) -> float:
    """How much of the law lies in its range."""
    from scipy.special import stdtr

    low, high = ((math.log(end) - part.mean) / part.scale for end in (part.low, part.high))
    return float(stdtr(part.df, high) - stdtr(part.df, low))


@functools.lru_cache(maxsize=16)
def _student_table(part: LogStudentT, device: torch.device) -> tuple[Tensor, Tensor]:
    """log(sigma / alpha) and the distribution function there, dense where the law is narrow: (n,) float64 each."""
    import numpy as np
    from scipy.special import stdtr

    low, high = ((math.log(end) - part.mean) / part.scale for end in (part.low, part.high))
    x = np.sinh(np.linspace(np.arcsinh(low), np.arcsinh(high), 20_001))
    shares = stdtr(part.df, x)
    shares = (shares - shares[0]) / (shares[-1] - shares[0])
    return torch.from_numpy(part.mean + part.scale * x).to(device), torch.from_numpy(shares).to(device)


def _normal_cdf(z: Tensor) -> Tensor:
    value: Tensor = torch.special.ndtr(z)
    return value
