"""Paths: how data become noise, x_t = alpha(t) x0 + sigma(t) eps, each in its own unit of time that rises with noise.

Coefficients are float64 whatever the samples' dtype: near t_clean the difference 1 - alpha**2 is lost in float32.
Sources: the closed forms are those of song2021sde (VP), nichol2021iddpm (cosine), karras2022edm (EDM),
liu2023rectified (flow), lu2025scm (trigonometric); the tables those of ho2020ddpm and rombach2022ldm.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Literal, overload

import torch
from pydantic import Field, model_validator
from torch import Tensor

from suffuse.base.part import Part

__all__ = ["EDM", "Flow", "Level", "PathPart", "TrigonometricPath", "check_below", "expand", "perturb"]


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ...) so that it multiplies `like` (B, ...), in the dtype and on the device of `like`."""
    return values.to(device=like.device, dtype=like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


def check_below(**limits: float) -> None:
    """Raise a `ValueError` for validators unless the first of two named numbers is below the second."""
    (low, least), (high, most) = limits.items()
    if least >= most:
        raise ValueError(f"{low} {least} is not below {high} {most}; swap them or widen the range")


@dataclass(frozen=True)
class Level:
    """The path's coefficients at one time: floats for a whole batch, or tensors (B, 1, ...) for a time per sample.

    Attributes:
        t: Time in the path's unit; (B,) when it is a tensor.
        alpha: Factor of the data.
        sigma: Factor of the unit noise.
        half_log_snr: log(alpha / sigma); +inf at t_clean.
    """

    t: float | Tensor
    alpha: float | Tensor
    sigma: float | Tensor
    half_log_snr: float | Tensor


class PathPart(Part, abc.ABC):
    """A Gaussian path. All methods take and return float64 tensors of any shape; times rise with noise.

    `t_clean` is where alpha = 1 and sigma = 0 and where grids end; `t_min` is the least time that is trained, `t_max`
    the prior. `kind` names the path in recipes.
    """

    kind: str

    @property
    def t_clean(self) -> float:
        """Time of clean data."""
        return 0.0

    @property
    @abc.abstractmethod
    def t_min(self) -> float:
        """Least time that is trained."""

    @property
    @abc.abstractmethod
    def t_max(self) -> float:
        """Time of the prior, the largest that is trained."""

    @property
    def told_scale(self) -> float | None:
        """Factor from times, here [0, 1], to the 0..1000 that embeddings expect; None when a path has no such unit."""
        return 1000.0

    @property
    def indices(self) -> int | None:
        """Number of discrete training times 0..indices-1; None when the path is continuous only."""
        return None

    @property
    def domain(self) -> tuple[float, float]:
        """Times at which the path may be trained; noise levels that fall outside are not drawn."""
        return self.t_min, self.t_max

    @abc.abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the data."""

    @abc.abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Factor of the noise."""

    @abc.abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor:
        """Derivative of alpha in time."""

    @abc.abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor:
        """Derivative of sigma in time; infinite at t_clean on variance-preserving paths whose beta(0) > 0."""

    def half_log_snr(self, t: Tensor) -> Tensor:
        """Half the log signal-to-noise ratio, lambda = log(alpha / sigma): falls with time."""
        return self.alpha(t).log() - self.sigma(t).log()

    def d_half_log_snr(self, t: Tensor) -> Tensor:
        """Derivative of the half log-SNR in time; negative."""
        return self.d_alpha(t) / self.alpha(t) - self.d_sigma(t) / self.sigma(t)

    @abc.abstractmethod
    def t_of(self, half_log_snr: Tensor) -> Tensor:
        """Time at which the half log-SNR has the given value: the inverse of `half_log_snr`."""

    @overload
    def level(self, t: float) -> Level: ...

    @overload
    def level(self, t: Tensor, like: Tensor) -> Level: ...

    def level(self, t: float | Tensor, like: Tensor | None = None) -> Level:
        """Coefficients at a time.

        Args:
            t: One time for the whole batch (float), or a time per sample, (B,).
            like: Samples (B, ...) that the coefficients will multiply; needed for a time per sample.
        """
        if isinstance(t, Tensor):
            if like is None:
                raise TypeError("a time per sample needs `like`, the samples to be multiplied")
            exact = t.to(torch.float64)
            return Level(
                t,
                expand(self.alpha(exact), like),
                expand(self.sigma(exact), like),
                expand(self.half_log_snr(exact), like),
            )
        at = torch.tensor(t, dtype=torch.float64)
        return Level(t, self.alpha(at).item(), self.sigma(at).item(), self.half_log_snr(at).item())


def perturb(path: PathPart, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Noisy sample x_t = alpha x0 + sigma eps.

    Args:
        path: Gives alpha and sigma.
        x0: Data, (B, ...).
        eps: Unit noise, (B, ...).
        t: Times, (B,).
    """
    level = path.level(t, x0)
    return level.alpha * x0 + level.sigma * eps


class EDM(PathPart):
    """Variance-exploding path in EDM's time: alpha = 1, sigma = t.

    Source: karras2022edm, Table 1. Times are sigmas; training may draw any sigma > 0, sampling runs from `sigma_max`
    to `sigma_min`.
    """

    kind: Literal["edm"] = "edm"
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> EDM:
        check_below(sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        return self

    @property
    def t_min(self) -> float:
        """Least sigma of sampling."""
        return self.sigma_min

    @property
    def t_max(self) -> float:
        """Largest sigma of sampling."""
        return self.sigma_max

    @property
    def told_scale(self) -> float | None:
        """Sigmas span five decades: networks must be told their logarithm."""
        return None

    @property
    def domain(self) -> tuple[float, float]:
        """Any sigma: EDM's log-normal is not truncated."""
        return 0.0, math.inf

    def alpha(self, t: Tensor) -> Tensor:
        """Always one."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Time itself."""
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        """Always zero."""
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        """Always one."""
        return torch.ones_like(t)

    def t_of(self, half_log_snr: Tensor) -> Tensor:
        """Inverse of -log t."""
        return (-half_log_snr).exp()


class Flow(PathPart):
    """Rectified-flow path: alpha = 1 - t, sigma = t for t in [0, 1].

    Source: liu2023rectified; the time runs from data (0) to noise (1), the reverse of SiT's.
    """

    kind: Literal["flow"] = "flow"
    t_start: float = Field(default=1e-5, ge=0, lt=1)
    t_end: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Flow:
        check_below(t_start=self.t_start, t_end=self.t_end)
        return self

    @property
    def t_min(self) -> float:
        """Least trained time."""
        return self.t_start

    @property
    def t_max(self) -> float:
        """Time of the prior."""
        return self.t_end

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Time itself."""
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        """Always -1."""
        return -torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        """Always 1."""
        return torch.ones_like(t)

    def t_of(self, half_log_snr: Tensor) -> Tensor:
        """Inverse of log((1 - t) / t)."""
        return torch.sigmoid(-half_log_snr)


class TrigonometricPath(PathPart):
    """Trigonometric path: alpha = cos t, sigma = sigma_data sin t for t in [0, pi/2].

    Source: lu2025scm (TrigFlow), Section 3.
    """

    kind: Literal["trigonometric"] = "trigonometric"
    sigma_data: float = Field(default=1.0, gt=0)
    t_start: float = Field(default=1e-5, ge=0, lt=math.pi / 2)
    t_end: float = Field(default=math.pi / 2, gt=0, le=math.pi / 2)

    @model_validator(mode="after")
    def _ordered(self) -> TrigonometricPath:
        check_below(t_start=self.t_start, t_end=self.t_end)
        return self

    @property
    def t_min(self) -> float:
        """Least trained time."""
        return self.t_start

    @property
    def t_max(self) -> float:
        """Time of the prior."""
        return self.t_end

    @property
    def told_scale(self) -> float | None:
        """Brings [0, pi/2] to [0, 1000]."""
        return 2000.0 / math.pi

    def alpha(self, t: Tensor) -> Tensor:
        """cos t."""
        return t.cos()

    def sigma(self, t: Tensor) -> Tensor:
        """sigma_data sin t."""
        return self.sigma_data * t.sin()

    def d_alpha(self, t: Tensor) -> Tensor:
        """-sin t."""
        return -t.sin()

    def d_sigma(self, t: Tensor) -> Tensor:
        """sigma_data cos t."""
        return self.sigma_data * t.cos()

    def t_of(self, half_log_snr: Tensor) -> Tensor:
        """atan(exp(-lambda) / sigma_data)."""
        return torch.atan((-half_log_snr).exp() / self.sigma_data)
