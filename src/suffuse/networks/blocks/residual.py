"""Blocks of U-Nets and autoencoders: residual blocks, changes of resolution, the last convolution.

Source: ho2020ddpm; dhariwal2021adm for scale and shift and for resampling inside the block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffuse.networks.blocks.dropout import Dropout
from suffuse.networks.blocks.initialise import zero_weights
from suffuse.networks.blocks.norms import Norm, image_norm, silu

__all__ = [
    "Downsample",
    "Filter",
    "ImageHead",
    "ResBlock",
    "Resample",
    "Upsample",
    "double",
    "halve",
    "smooth_double",
    "smooth_halve",
]

Resample = Literal["none", "down", "up"]
Filter = Literal["box", "smooth"]


def halve(x: Tensor) -> Tensor:
    """Mean over 2 x 2 pixels, (B, C, H, W) -> (B, C, H/2, W/2)."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """Each pixel four times, (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _smoothing(x: Tensor) -> Tensor:
    """The smoothing kernel for each channel of x on its own, (C, 1, 4, 4); it sums to 1."""
    taps = x.new_ones(4)  # 1, 3, 3, 1, made on the device: a copy to it would wait for its queue
    taps[1:3] = 3.0
    return (torch.outer(taps, taps) / 64).expand(x.shape[1], 1, -1, -1)


def smooth_halve(x: Tensor) -> Tensor:
    """Weighted mean over 4 x 4 pixels, (B, C, H, W) -> (B, C, H/2, W/2). Source: song2021sde (NCSN++)."""
    return F.conv2d(x, _smoothing(x), stride=2, padding=1, groups=x.shape[1])


def smooth_double(x: Tensor) -> Tensor:
    """Interpolation over 2 x 2 pixels, (B, C, H, W) -> (B, C, 2H, 2W). Source: song2021sde (NCSN++)."""
    return F.conv_transpose2d(x, 4 * _smoothing(x), stride=2, padding=1, groups=x.shape[1])


_RESAMPLE: dict[tuple[Filter, Resample], Callable[[Tensor], Tensor]] = {
    ("box", "none"): lambda x: x,
    ("box", "down"): halve,
    ("box", "up"): double,
    ("smooth", "none"): lambda x: x,
    ("smooth", "down"): smooth_halve,
    ("smooth", "up"): smooth_double,
}


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))), time))), (B, C_in, H, W) -> (B, C_out, H, W), H and W resampled.

    Args:
        channels_in: C_in.
        channels_out: C_out.
        time_width: Width of the time embedding; None for a block that is told nothing.
        groups: Groups of both norms.
        eps: Their epsilon.
        scale_shift: The embedding scales and shifts the second norm's output; otherwise it is added before that norm.
        dropout: Keyed dropout before the second convolution; None for none.
        resample: Change of resolution within the block, on both branches.
        filter: How it is done.
        zero_init: The branch starts at zero.
        norm: Kind of both norms.
        scale: Factor on the sum of branch and skip; sqrt(1/2) keeps its variance (song2021sde).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        time_width: int | None,
        groups: int,
        eps: float,
        scale_shift: bool = False,
        dropout: Dropout | None = None,
        resample: Resample = "none",
        filter: Filter = "box",
        zero_init: bool,
        norm: Norm = "group",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resample, self.filter, self.scale = scale_shift, resample, filter, scale
        self.norm1 = image_norm(norm, channels_in, groups=groups, eps=eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = None
        if time_width is not None:
            self.time = nn.Linear(time_width, 2 * channels_out if scale_shift else channels_out)
        self.norm2 = image_norm(norm, channels_out, groups=groups, eps=eps)
        self.dropout = dropout or Dropout(0.0, 0)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)
        if zero_init:
            zero_weights(self.conv2)

    def forward(self, x: Tensor, emb: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        """Evaluate the block.

        Args:
            x: (B, C_in, H, W).
            emb: SiLU of the time embedding, (B, time_width); None for a block that is told nothing.
            seeds: Keys of the dropout, (B,) int64; None switches it off.
        """
        resample = _RESAMPLE[self.filter, self.resample]
        h = self.conv1(resample(silu(self.norm1(x))))
        told = None if self.time is None else self.time(emb)[:, :, None, None]
        if told is None:
            h = self.norm2(h)
        elif self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1.0 + scale)
        else:
            h = self.norm2(h + told)
        h = self.conv2(self.dropout(silu(h), seeds))
        # In place: a convolution's output is not needed for its gradient, and it depends on x, so jvp works as well.
        added: Tensor = h.add_(self.skip(resample(x)))
        return added if self.scale == 1.0 else added * self.scale


class Downsample(nn.Module):
    """Convolution with stride 2, (B, C, H, W) -> (B, C, H/2, W/2).

    Args:
        channels: C.
        padding: 1 pads all sides; 0 pads one row below and one column to the right (ho2020ddpm).
    """

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor, emb: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        """Halve both sides; the embedding and the seeds are not read."""
        value: Tensor = self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))
        return value


class Upsample(nn.Module):
    """Nearest neighbours, then a convolution, (B, C, H, W) -> (B, C, 2H, 2W).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        """Double both sides; the embedding and the seeds are not read."""
        value: Tensor = self.conv(double(x))
        return value


class ImageHead(nn.Module):
    """Norm, SiLU and the last convolution, (B, C_in, H, W) -> (B, C_out, H, W).

    Args:
        channels_in: C_in.
        channels_out: C_out.
        groups: Groups of the norm.
        eps: Its epsilon.
        zero_init: The output starts at zero.
        norm: Kind of the norm.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, groups: int, eps: float, zero_init: bool, norm: Norm = "group"
    ) -> None:
        super().__init__()
        self.norm = image_norm(norm, channels_in, groups=groups, eps=eps)
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        if zero_init:
            zero_weights(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the head."""
        value: Tensor = self.conv(silu(self.norm(x)))
        return value
