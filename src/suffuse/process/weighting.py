"""Weightings: how heavily each noise level counts, always as a factor on |D - x0|**2.

With SNR = exp(2 lambda) and lambda the *half* log-SNR, a weight W on the eps loss is W * SNR here. Papers that write
lambda for the full log-SNR are off by the classic factor 2.
"""

from __future__ import annotations

import abc
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.part import Part

__all__ = [
    "P2",
    "BoundedSNR",
    "EDMWeighting",
    "EpsWeighting",
    "MinSNR",
    "PlainWeighting",
    "SigmoidWeighting",
    "TruncatedSNR",
    "VWeighting",
    "WeightingPart",
    "X0Weighting",
]


class WeightingPart(Part, abc.ABC):
    """Weight of a noise level."""

    kind: str

    @abc.abstractmethod
    def of(self, half_log_snr: Tensor, c_out: Tensor) -> Tensor:
        """Factor on |D - x0|**2.

        Args:
            half_log_snr: lambda = log(alpha / sigma), (B,).
            c_out: The prediction's output coefficient, (B,).

        Returns:
            Weights, (B,), not negative.
        """


class PlainWeighting(WeightingPart):
    """The network's own target counts equally at every level: 1 / c_out**2.

    That is DDPM's simple loss for eps, the v loss for v, the flow-matching loss for flow, EDM's weight for EDM.
    """

    kind: Literal["plain"] = "plain"

    def of(self, half_log_snr: Tensor, c_out: Tensor) -> Tensor:
        """1 / c_out**2."""
        return c_out**-2


class EpsWeighting(WeightingPart):
    """Unit weight on the eps loss, whatever the network predicts: SNR. Source: ho2020ddpm, Eq. 14."""

    kind: Literal["eps"] = "eps"

    def of(self, half_log_snr: Tensor, c_out: Tensor) -> Tensor:
        """SNR."""
        return (2 * half_log_snr).exp()


class X0Weighting(WeightingPart):
    """Unit weight on the x0 loss."""

    kind: Literal["x0"] = "x0"

    def of(self, half_log_snr: Tensor, c_out: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(half_log_snr)


class VWeighting(WeightingPart):
    """Unit weight on the v loss of a variance-preserving path: SNR + 1. Source: salimans2022progressive, Section 4."""

    kind: Literal["v"] = "v"

    def of(self, half_log_snr: Tensor, c_out: Tensor) -> Tensor:
        """SNR + 1."""
        return (2 * half_log_snr).exp() + 1


class TruncatedSNR(WeightingPart):
    """max(SNR, 1). Source: salimans2022progressive, Section 4."""

    kind: Literal["truncated_snr"] = "truncated_snr"

    def of(self, half_log_snr: Tensor, c_out: Tensor) -> Tensor:
        """max(SNR, 1)."""
        return (2 * half_log_snr).exp().clamp_min(1)


class MinSNR(WeightingPart):
    """min(SNR, gamma), or the smooth form SNR gamma / (SNR + gamma). Source: hang2023minsnr, Section 3.4."""

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = Field(default=5.0, gt=0)
    soft: bool = False

    def of(self, half_log_snr: Tensor, c_out: Tensor) -> Tensor:
        """min(SNR, gamma)."""
        if self.soft:
            return 1 / ((-2 * half_log_snr).exp() + 1 / self.gamma)
        return (2 * half_log_snr).exp().clamp_max(self.gamma)


class P2(WeightingPart):
    """SNR / (k + SNR)**gamma, that is 1 / (k + SNR)**gamma on the eps loss. Source: choi2022p2, Eq. 8."""

    kind: Literal["p2"] = "p2"
    k: float = Field(default=1.0, gt=0)
    gamma: float = Field(default=1.0, ge=0)

    def of(self, half_log_snr: Tensor, c_out: Tensor) -> Tensor:
        """SNR / (k + SNR)**gamma."""
        snr = (2 * half_log_snr).exp()
        return snr / (self.k + snr) ** self.gamma


class BoundedSNR(WeightingPart):
    """(1 - alpha**2) / (1 + alpha**2) on the eps loss of a variance-preserving path: alpha**2 / (1 + alpha**2) here.

    Source: pernias2024wuerstchen, Eq. 1. Its code weighs by 1 - alpha**2 instead, which is `p2` at its defaults.
    """

    kind: Literal["bounded_snr"] = "bounded_snr"

    def of(self, half_log_snr: Tensor, c_out: Tensor) -> Tensor:
        """SNR (1 - a) / (1 + a) with a = SNR / (1 + SNR)."""
        a = torch.sigmoid(2 * half_log_snr)
        return a / (1 + a)


class SigmoidWeighting(WeightingPart):
    """sigmoid(bias - 2 lambda) on the eps loss. Source: kingma2023understanding, Table 1."""

    kind: Literal["sigmoid"] = "sigmoid"
    bias: float = 2.0

    def of(self, half_log_snr: Tensor, c_out: Tensor) -> Tensor:
        """SNR sigmoid(bias - 2 lambda)."""
        return (2 * half_log_snr).exp() * torch.sigmoid(self.bias - 2 * half_log_snr)


class EDMWeighting(WeightingPart):
    """EDM's weight whatever the network predicts: SNR + 1 / sigma_data**2. Source: karras2022edm, Table 1."""

    kind: Literal["edm"] = "edm"
    sigma_data: float = Field(default=0.5, gt=0)

    def of(self, half_log_snr: Tensor, c_out: Tensor) -> Tensor:
        """SNR + 1 / sigma_data**2."""
        return (2 * half_log_snr).exp() + self.sigma_data**-2
