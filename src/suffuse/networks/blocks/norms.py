"""Normalisation with what follows it: SiLU after a group norm, modulation after a layer norm."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GroupNorm", "NonScalingLayerNorm", "Norm", "image_norm", "modulate", "silu"]

Norm = Literal["group", "non_scaling"]

_SMALL = 256  # pixels


class GroupNorm(nn.GroupNorm):
    """Group norm that computes in float32 where bfloat16 on a CPU would be slower.

    torch's bfloat16 kernel for channels-last maps of few pixels took 43 % of a U-Net's forward: with the detour through
    float32 sampling is 1.3 times as fast and a training step too. Large maps without gradients are left to it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) or (B, C, N); the dtype stays."""
        detour = torch.is_grad_enabled() or x[0, 0].numel() <= _SMALL
        if x.dtype is not torch.bfloat16 or x.device.type != "cpu" or not detour:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            weight, bias = self.weight.float(), self.bias.float()
            return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


class NonScalingLayerNorm(nn.Module):
    """Layer norm over the channels with a learned shift and no scale: it is the scale that lets outliers grow.

    Source: dao2025slct, Section 4.5.

    Args:
        channels: C.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C), or each pixel of (B, C, H, W)."""
        last = x.movedim(1, -1)
        return F.layer_norm(last, last.shape[-1:], None, self.bias, self.eps).movedim(-1, 1)


def image_norm(kind: Norm, channels: int, *, groups: int, eps: float) -> nn.Module:
    """The norm of a kind for maps (B, C, H, W)."""
    return GroupNorm(groups, channels, eps) if kind == "group" else NonScalingLayerNorm(channels, eps)


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else reads: in place unless gradients are recorded (a third faster on a CPU)."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def modulate(x: Tensor, norm: nn.LayerNorm, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) * (1 + scale) + shift: (B, N, D) with shift and scale (B, 1, D). Source: peebles2023dit."""
    return torch.addcmul(shift, norm(x), 1.0 + scale)
