"""The cosine path whose ends are cut off at a least and a largest noise: Wuerstchen's."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.process.path import PathPart

__all__ = ["ClampedCosine"]

_CLEAN = -0.01  # anywhere below 0: only that it is another time counts


class ClampedCosine(PathPart):
    """alpha**2 = cos(theta(t))**2 / cos(theta(0))**2 on t in [0, 1], kept within [least, 1 - least].

    At time 0 there is still noise, sigma**2 = least, so clean data are at a time below 0, with log alpha linear in
    between, as on tables. Times at the noisy end, where the clamp holds, all have sigma**2 = 1 - least: half log-SNRs
    run from about -4.6 to 4.6 at the default.

    Source: pernias2024wuerstchen (its code); nichol2021iddpm, Eq. 17, for the cosine and its offset.

    Attributes:
        offset: Of the cosine.
        least: Least sigma**2, and least alpha**2.
    """

    kind: Literal["clamped_cosine"] = "clamped_cosine"
    offset: float = Field(default=0.008, ge=0)
    least: float = Field(default=1e-4, gt=0, lt=0.5)

    @property
    def t_clean(self) -> float:
        """Below 0: time 0 has noise."""
        return _CLEAN

    @property
    def t_min(self) -> float:
        """0."""
        return 0.0

    @property
    def t_max(self) -> float:
        """1."""
        return 1.0

    @property
    def _limits(self) -> tuple[float, float]:
        """Least and largest log alpha of the clamp."""
        return 0.5 * math.log(self.least), 0.5 * math.log1p(-self.least)

    def _angle(self, t: Tensor) -> Tensor:
        return math.pi / 2 * (t + self.offset) / (1 + self.offset)

    @property
    def _start(self) -> float:
        return math.cos(math.pi / 2 * self.offset / (1 + self.offset))

    def _log_alpha(self, t: Tensor) -> Tensor:
        low, high = self._limits
        cosine = (self._angle(t.clamp(0, 1)).cos() / self._start).clamp_min(1e-12).log().clamp(low, high)
        return torch.where(t < 0, high * (1 - t / _CLEAN), cosine)

    def alpha(self, t: Tensor) -> Tensor:
        """exp(log alpha)."""
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha**2)."""
        return torch.expm1(2 * self._log_alpha(t)).abs().sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        """The cosine's; 0 where the clamp holds."""
        low, high = self._limits
        log_alpha = self._log_alpha(t)
        slope = -math.pi / 2 / (1 + self.offset) * self._angle(t).sin() / self._start
        inside = torch.where((log_alpha > low) & (log_alpha < high), slope, torch.zeros_like(slope))
        return torch.where(t < 0, -high / _CLEAN * log_alpha.exp(), inside)

    def d_sigma(self, t: Tensor) -> Tensor:
        """-alpha alpha' / sigma; infinite at clean data."""
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)

    def half_log_snr(self, t: Tensor) -> Tensor:
        """log alpha - log sigma."""
        log_alpha = self._log_alpha(t)
        return log_alpha - 0.5 * torch.expm1(2 * log_alpha).abs().log()

    def t_of(self, half_log_snr: Tensor) -> Tensor:
        """From alpha**2 = sigmoid(2 lambda); the latest time of the noisy clamp's least half log-SNR is 1."""
        low, high = self._limits
        log_alpha = 0.5 * torch.nn.functional.logsigmoid(2 * half_log_snr)
        cosine = (log_alpha.clamp(low, high).exp() * self._start).clamp(-1, 1)
        t = cosine.acos() / (math.pi / 2) * (1 + self.offset) - self.offset
        t = torch.where(log_alpha <= low, torch.ones_like(t), t)
        return torch.where(log_alpha > high, _CLEAN * (1 - log_alpha / high), t)
