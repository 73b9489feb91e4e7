"""Blocks of Wuerstchen's networks: convolution, time and attention layers, stages of them, and the (A, B) head.

Source: pernias2024wuerstchen; the layers of the convolution are those of woo2023convnextv2.

Shape letters: B batch, C channels, H and W an image's sides, N pixels as tokens, M text tokens, D width, R sinusoids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.networks.blocks.dropout import Dropout
from suffuse.networks.blocks.embeddings import FixedTable, Sinusoids
from suffuse.networks.blocks.initialise import zero_weights

__all__ = [
    "ABHead",
    "GlobalResponseNorm",
    "Stage",
    "TextAttention",
    "TimeWaves",
    "absolute_spread",
    "bounded_spread",
    "head_channels",
    "initialise",
    "pixel_norm",
]

_EPS = 1e-6
_MAX_PERIOD = 1e4


def pixel_norm(x: Tensor) -> Tensor:
    """Layer norm without weights over the last dimension: the channels of each pixel, (B, H, W, C)."""
    return F.layer_norm(x, x.shape[-1:], eps=_EPS)


def _rates(half: int) -> Tensor:
    """Frequencies from 1 to 1e-4, rounded as in the released weights' training.

    At 10000 r radians the last digit of a float32 frequency is a thousandth of a radian, so the order of the operations
    is seen in the output; that of `Sinusoids` is another one.
    """
    return (torch.arange(half, dtype=torch.float32) * -(math.log(_MAX_PERIOD) / (half - 1))).exp()


class TimeWaves(nn.Module):
    """What all time layers read: sinusoids of scale * told, plus the condition's vector, (B, R).

    Args:
        channels: R, even.
        scale: Factor on what is told.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.sinusoids = Sinusoids(channels, freq_shift=1, cosine_first=False, max_period=_MAX_PERIOD)
        self.sinusoids.frequencies = FixedTable(partial(_rates, channels // 2))

    def forward(self, told: Tensor, cond: Embedding | None) -> Tensor:
        """Embed (B,) numbers; a condition's `vector`, (B, R), is added.

        Raises:
            UsageError: `told` has half precision, or the vector another width.
        """
        waves: Tensor = self.sinusoids(told * self.scale)
        if cond is None or cond.vector is None:
            return waves
        if cond.vector.shape != waves.shape:
            raise UsageError(
                f"cond.vector has shape {tuple(cond.vector.shape)}, the network embeds time as {tuple(waves.shape)}; "
                f"build the conditioner with the network's cond_width"
            )
        return waves + cond.vector


class GlobalResponseNorm(nn.Module):
    """x + gamma x n + beta, with n a channel's norm over all pixels relative to the mean norm; the identity at first.

    Source: woo2023convnextv2, Section 3.2.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, H, W, C)."""
        # A sum of squares over a whole image: bfloat16 would stop adding after a few hundred pixels.
        norms = torch.linalg.vector_norm(x.float(), dim=(1, 2), keepdim=True)
        relative = (norms / (norms.mean(dim=-1, keepdim=True) + 1e-6)).to(x.dtype)
        return torch.addcmul(self.beta.to(x.dtype) + x, self.gamma.to(x.dtype), x * relative)


class _Told(NamedTuple):
    """What the layers of a stage are told; see `Stage.forward`."""

    waves: Tensor
    text: Tensor | None
    mask: Tensor | None
    map: Tensor | None
    skip: Tensor | None
    seeds: Tensor | None


class _Conv(nn.Module):
    """C: depthwise convolution, norm, MLP of four times the width; what comes from beside is concatenated between.

    Args:
        width: C.
        beside: Channels from beside: of the map, and of the skip of a layer that `joins`.
        joins: Reads the skip.
        kernel: Side of the depthwise convolution.
        dropout: Keyed dropout in the MLP.
    """

    def __init__(self, width: int, *, beside: int, joins: bool, kernel: int, dropout: Dropout) -> None:
        super().__init__()
        self.joins = joins
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.inner = nn.Linear(width + beside, 4 * width)
        self.norm = GlobalResponseNorm(4 * width)
        self.dropout = dropout
        self.outer = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, told: _Told) -> Tensor:
        h = pixel_norm(self.depthwise(x).permute(0, 2, 3, 1))
        beside = [value for value in (told.skip if self.joins else None, told.map) if value is not None]
        if beside:
            h = torch.cat([h, *(value.permute(0, 2, 3, 1).to(h.dtype) for value in beside)], dim=-1)
        h = self.dropout(self.norm(F.gelu(self.inner(h))), told.seeds)
        value: Tensor = self.outer(h).permute(0, 3, 1, 2)
        return value


class _Time(nn.Module):
    """T: a x + b, with (a, b) linear in the waves of time."""

    def __init__(self, width: int, frequencies: int) -> None:
        super().__init__()
        self.linear = nn.Linear(frequencies, 2 * width)

    def forward(self, x: Tensor, told: _Told) -> Tensor:
        scale, shift = self.linear(told.waves.to(self.linear.weight.dtype))[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))


class TextAttention(nn.Module):
    """Attention of pixels to pixels and text in one softmax. Source: vaswani2017attention.

    Args:
        width: D.
        heads: Number of heads, a divisor of D.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend from x.

        Args:
            x: Pixels, (B, N, D).
            text: Text tokens behind them, (B, M, D); None for none.
            mask: Which text tokens count, (B, M) bool; None when all do.
        """
        B, N, D = x.shape
        both = x if text is None else torch.cat([x, text.to(x.dtype)], dim=1)
        q_BHND = self.query(x).view(B, N, self.heads, -1).transpose(1, 2)
        k_BHLD, v_BHLD = self.keys_values(both).view(B, both.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        if mask is not None:
            mask = torch.cat([mask.new_ones(B, N), mask], dim=1)[:, None, None]
        mixed_BHND = F.scaled_dot_product_attention(q_BHND, k_BHLD, v_BHLD, attn_mask=mask)
        value: Tensor = self.out(mixed_BHND.transpose(1, 2).reshape(B, N, D))
        return value


class _Attention(nn.Module):
    """A: norm, then attention to pixels and text."""

    def __init__(self, width: int, heads: int, *, text_width: int, dropout: Dropout) -> None:
        super().__init__()
        self.text = nn.Linear(text_width, width) if text_width else None
        self.attend = TextAttention(width, heads)
        self.dropout = dropout

    def forward(self, x: Tensor, told: _Told) -> Tensor:
        tokens = pixel_norm(x.permute(0, 2, 3, 1)).flatten(1, 2)
        text = None if self.text is None or told.text is None else self.text(F.silu(told.text))
        mixed: Tensor = self.dropout(self.attend(tokens, text, told.mask), told.seeds)
        return mixed.transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """Layers that add to an image in turn, by letters: C convolution, T time, A attention.

    Args:
        layout: The letters, C first.
        width: C.
        heads: Attention heads, a divisor of C; not read without an A.
        frequencies: R.
        text_width: Width of the text tokens; 0 for none.
        map_channels: Channels of the map that every convolution layer reads; 0 for none.
        skip_channels: Channels of the skip that the first layer reads; 0 for none.
        kernel: Side of the depthwise convolutions.
        dropout: Probability of dropout.
        layer: Counter of the network's layers with dropout.
    """

    def __init__(
        self,
        layout: str,
        width: int,
        *,
        heads: int,
        frequencies: int,
        text_width: int,
        map_channels: int = 0,
        skip_channels: int = 0,
        kernel: int = 3,
        dropout: float,
        layer: Iterator[int],
    ) -> None:
        super().__init__()

        def conv(place: int) -> nn.Module:
            joined = skip_channels if place == 0 else 0
            drop = Dropout(dropout, next(layer))
            return _Conv(width, beside=joined + map_channels, joins=joined > 0, kernel=kernel, dropout=drop)

        def attention(place: int) -> nn.Module:
            return _Attention(width, heads, text_width=text_width, dropout=Dropout(dropout, next(layer)))

        make: dict[str, Callable[[int], nn.Module]] = {"C": conv, "A": attention}
        make["T"] = lambda place: _Time(width, frequencies)
        self.layers = nn.ModuleList(make[letter](place) for place, letter in enumerate(layout))

    def forward(
        self,
        x: Tensor,
        waves: Tensor,
        text: Tensor | None = None,
        mask: Tensor | None = None,
        map: Tensor | None = None,
        skip: Tensor | None = None,
        seeds: Tensor | None = None,
    ) -> Tensor:
        """What the layers add to x together, (B, C, H, W).

        Args:
            x: (B, C, H, W).
            waves: Of time, (B, R).
            text: Text tokens, (B, M, text_width); None for none.
            mask: Which of them count, (B, M) bool; None when all do.
            map: Of x's sides, (B, map_channels, H, W); None for none.
            skip: Of x's sides, (B, skip_channels, H, W); None for none.
            seeds: Keys of the dropout, (B,) int64; None switches it off.
        """
        told = _Told(waves, text, mask, map, skip, seeds)
        first, *others = self.layers
        added: Tensor = first(x, told)
        # The sum is kept apart from x, so that it can be handed out exactly.
        for layer in others:
            added = added + layer(x + added, told)
        return added


def head_channels(head: Literal["ab", "plain"], shape: tuple[int, ...], out_channels: int | None) -> int:
    """Channels of a network's output for images of one shape, (C, H, W).

    Raises:
        UsageError: Not an image's shape, or the (A, B) head is to give other channels than the data's.
    """
    if len(shape) != 3:
        raise UsageError(
            f"a network of convolutions needs data of shape (C, H, W), not {shape}; use the network mlp for vectors"
        )
    if head == "ab" and out_channels not in (None, shape[0]):
        raise UsageError(
            f"head 'ab' gives an estimate of eps, of the data's {shape[0]} channels, but {out_channels} are asked for; "
            f"set network.head=plain"
        )
    return shape[0] if out_channels is None else out_channels


def absolute_spread(b: Tensor) -> Tensor:
    """|1 - b| + 1e-5, which divides in the prior's head. Source: pernias2024wuerstchen."""
    return (1 - b).abs() + 1e-5


def bounded_spread(b: Tensor) -> Tensor:
    """A sigmoid from 1e-3 to 1 - 1e-3, which divides in DiffNeXt's head. Source: pernias2024wuerstchen's code."""
    return 1e-3 + (1 - 2e-3) * b.sigmoid()


class ABHead(nn.Module):
    """Norm, 1x1 convolution, patches to pixels; then (x - A) / spread(B): A stands for alpha x0, the spread for sigma.

    All starts at zero. Source: pernias2024wuerstchen.

    Args:
        width: Channels of what is read.
        channels: Channels of the result, at most those of x.
        patch: Side of a patch in pixels.
        spread: Of B; None for a plain head, which has no A and B.
    """

    def __init__(self, width: int, channels: int, *, patch: int, spread: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.patch, self.spread = patch, spread
        self.conv = nn.Conv2d(width, (1 if spread is None else 2) * channels * patch**2, 1)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Evaluate the head on (B, width, H / patch, W / patch) and the network's input x, (B, C + extra, H, W)."""
        # Small spreads magnify the rounding of A, so all is float32 as far as the weights are, under autocast too.
        with nullcontext() if h.device.type == "meta" else torch.autocast(h.device.type, enabled=False):
            normed = pixel_norm(h.float().permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            value = F.pixel_shuffle(self.conv(normed.to(self.conv.weight.dtype)).float(), self.patch)
            if self.spread is not None:
                a, b = value.chunk(2, dim=1)
                value = (x[:, : a.shape[1]].float() - a) / self.spread(b)
            return value.to(x.dtype)


def initialise(network: nn.Module, *, inputs: nn.Module, conditions: list[nn.Module], stages: int) -> None:
    """Initial weights of Wuerstchen's networks: Xavier, but small inputs, and time layers and output at zero.

    Source: pernias2024wuerstchen, by way of diffusers' DiffNeXt; the prior follows the same rules. Deviation: there the
    last layer of each MLP is scaled by sqrt(1 / stages) again for every module that is initialised after it, which
    leaves all but the last few at zero; here it is scaled once.

    Args:
        network: Whose weights are set.
        inputs: Its first convolution.
        conditions: Maps of conditions, which start at a deviation of 0.02.
        stages: Number of stages.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, _Conv):
            with torch.no_grad():
                module.outer.weight.mul_(math.sqrt(1 / stages))
        elif isinstance(module, _Time):
            zero_weights(module)
        elif isinstance(module, ABHead):
            zero_weights(module.conv)
    for module in conditions:
        assert isinstance(module.weight, Tensor)
        nn.init.normal_(module.weight, std=0.02)
    assert isinstance(inputs.weight, Tensor)
    nn.init.xavier_uniform_(inputs.weight, gain=0.02)
