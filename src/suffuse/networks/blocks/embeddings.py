"""Embeddings of the noise level and of positions.

Source: ho2020ddpm (sinusoids of time), peebles2023dit (fixed two-dimensional positions).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys, normal

__all__ = ["FixedTable", "Fourier", "Sinusoids", "TimeEmbedding", "grid_positions"]


class FixedTable(nn.Module):
    """A float32 tensor that a formula gives: no weight, and exact whatever is done to the weights.

    A plain buffer would be rounded by `.to(bfloat16)` and lost by `.to_empty()`; this one is made anew on every move.

    Args:
        make: Makes the tensor, on the CPU.
    """

    table: Tensor

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self._make = make
        self.register_buffer("table", make(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # untyped in torch
        self.table = self._make().to(self.table.device)
        return self


def _frequencies(half: int, freq_shift: int, max_period: float) -> Tensor:
    exponent = -math.log(max_period) * torch.arange(half, dtype=torch.float32) / (half - freq_shift)
    return exponent.exp()


class Sinusoids(nn.Module):
    """(B,) -> (B, channels) float32: sines and cosines at frequencies max_period^(-i / (channels / 2 - freq_shift)).

    Args:
        channels: Width of the result, even.
        freq_shift: 1 reaches the lowest frequency 1 / max_period exactly (ho2020ddpm), 0 stops one short
            (peebles2023dit). Weights trained with one give slightly wrong outputs with the other.
        cosine_first: Cosines in the first half instead of the second.
        max_period: Longest period over 2 pi.
    """

    def __init__(self, channels: int, *, freq_shift: int, cosine_first: bool, max_period: float = 1e4) -> None:
        super().__init__()
        self.cosine_first = cosine_first
        self.frequencies = FixedTable(partial(_frequencies, channels // 2, freq_shift, max_period))

    def forward(self, told: Tensor) -> Tensor:
        """Embed (B,) numbers.

        Raises:
            UsageError: `told` has half precision, in which neighbouring noise levels coincide.
        """
        if told.dtype in (torch.bfloat16, torch.float16):
            raise UsageError(f"told has dtype {told.dtype}, which cannot tell noise levels apart; pass float32")
        angle = told.to(torch.float32)[:, None] * self.frequencies.table
        waves = (angle.cos(), angle.sin()) if self.cosine_first else (angle.sin(), angle.cos())
        return torch.cat(waves, dim=1)


def _random_frequencies(half: int, scale: float) -> Tensor:
    return normal(keys(0, "fourier embedding", 0, torch.arange(1)), (half,))[0] * (math.tau * scale)


class Fourier(nn.Module):
    """(B,) -> (B, channels) float32: cosines and sines at fixed random frequencies, 2 pi times normal numbers.

    Source: song2021sde, Section C; song2024ict lowers the scale from 16 to 0.02, so that neighbouring noise levels look
    alike.

    Args:
        channels: Width of the result, even.
        scale: Standard deviation of the frequencies over 2 pi.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.frequencies = FixedTable(partial(_random_frequencies, channels // 2, scale))

    def forward(self, told: Tensor) -> Tensor:
        """Embed (B,) numbers."""
        angle = told.to(torch.float32)[:, None] * self.frequencies.table
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """The vector that conditions every block: an MLP on sinusoids of what is told, plus the condition's vector.

    Args:
        channels: Number of sinusoids.
        width: Width of the vector.
        sinusoids: Options of `Sinusoids`.
        fourier: Scale of random frequencies, see `Fourier`; sinusoids when None.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        freq_shift: int,
        cosine_first: bool,
        max_period: float = 1e4,
        fourier: float | None = None,
    ) -> None:
        super().__init__()
        self.sinusoids = (
            Sinusoids(channels, freq_shift=freq_shift, cosine_first=cosine_first, max_period=max_period)
            if fourier is None
            else Fourier(channels, fourier)
        )
        self.inner = nn.Linear(channels, width)
        self.outer = nn.Linear(width, width)

    def forward(self, told: Tensor, cond: Embedding | None) -> Tensor:
        """SiLU of the sum of both embeddings, (B, width): all blocks read it through this SiLU, so it is done once.

        Args:
            told: What the time condition tells, (B,), float32 or wider.
            cond: Its `vector`, (B, width), is added; None or no vector adds nothing.
        """
        waves = self.sinusoids(told).to(self.inner.weight.dtype)
        embedded: Tensor = self.outer(F.silu(self.inner(waves)))
        if cond is not None and cond.vector is not None:
            if cond.vector.shape != embedded.shape:
                raise UsageError(
                    f"cond.vector has shape {tuple(cond.vector.shape)}, the network embeds time as "
                    f"{tuple(embedded.shape)}; build the conditioner with the network's cond_width"
                )
            embedded = embedded + cond.vector
        return F.silu(embedded)


def grid_positions(height: int, width: int, channels: int, *, max_period: float = 1e4) -> Tensor:
    """Fixed positions of a grid's cells in row order, (height * width, channels) float32.

    The first half of the channels holds the column, the second the row, each as [sines | cosines].

    Args:
        height: Rows.
        width: Columns.
        channels: Divisible by 4.
        max_period: Longest period over 2 pi.
    """
    quarter = channels // 4
    frequencies = max_period ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [axis.reshape(-1, 1).to(torch.float64) * frequencies for axis in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).to(torch.float32)
