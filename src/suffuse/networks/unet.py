"""U-Net of the DDPM and ADM family.

Source: ho2020ddpm, dhariwal2021adm; the defaults are ho2020ddpm's for CIFAR-10 without dropout. With tokens to
attend to (text) the attention is rombach2022ldm's transformer block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.networks.blocks.attention import ImageAttention
from suffuse.networks.blocks.cross_attention import Context, SpatialTransformer
from suffuse.networks.blocks.dropout import Dropout
from suffuse.networks.blocks.embeddings import TimeEmbedding
from suffuse.networks.blocks.norms import Norm
from suffuse.networks.blocks.residual import Downsample, Filter, ImageHead, Resample, ResBlock, Upsample
from suffuse.networks.contract import Network, Output
from suffuse.networks.execution import call_block, execute
from suffuse.networks.part import NetworkPart, count_parameters, seeded

__all__ = ["UNet", "UNetNetwork"]


# Longest side up to -> (channels, multipliers, groups). Levels that the sides cannot be halved into are left out.
_BY_SIZE = (
    (16, 32, (1, 2, 2), 8),
    (48, 64, (1, 2, 2), 32),
    (96, 96, (1, 2, 2, 2), 32),
    (160, 128, (1, 1, 2, 3, 4), 32),
    (256, 128, (1, 1, 2, 2, 4, 4), 32),
)


class UNet(NetworkPart):
    """U-Net with attention at chosen levels.

    Attributes:
        channels: Base width, and number of sinusoids of the time embedding.
        multipliers: Width of each level over `channels`, finest level first.
        blocks: Residual blocks of a level on the way down; one more on the way up.
        attention_levels: Levels with attention after each block, 0 the finest.
        head_channels: Channels of an attention head; None means a single head.
        mid_attention: Attention in the middle.
        mid_attention_norm: A norm before it.
        scale_shift: The time embedding scales and shifts norms (dhariwal2021adm) instead of being added.
        resample: Resolution changes by a convolution (ho2020ddpm) or inside a residual block (dhariwal2021adm).
        resample_filter: Inside a residual block: means of 2 x 2 pixels, or NCSN++'s smoothing over 4 x 4 (song2021sde).
        down_padding: Padding of the convolution with stride 2: 0 is one-sided (ho2020ddpm), 1 symmetric.
        time_width: Width of the time embedding and of condition vectors; 4 * channels when None.
        freq_shift: Frequency shift of the time embedding, see `Sinusoids`.
        flip_sin_to_cos: Cosines before sines in the time embedding.
        max_period: Longest period of the time embedding over 2 pi.
        fourier: Scale of random frequencies of the time embedding, instead of sinusoids; None for sinusoids.
        norm: Group norms, or layer norms without a scale (see `NonScalingLayerNorm`).
        skip_scale: Factor on every sum of a branch and its skip; sqrt(1/2) in NCSN++ and DDPM++.
        groups: Groups of all group norms.
        norm_eps: Their epsilon.
        dropout: Probability of dropout in residual blocks.
        extra_channels: Input channels beyond the data's, for conditions that are concatenated.
        token_width: Width of a condition's tokens, to which every attention then attends too; 0 for none.
        zero_init: Residual branches and the output start at zero.
        zero_extra: Weights of the extra channels start at zero and all others as without them: a fresh network is the
            one that sees no condition (rombach2022ldm's inpainting models start so from others).
        channels_last: Activations in channels-last order: measured 1.1 times as fast in float32 on a CPU. Weights keep
            their order, and the output is contiguous.
        checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    kind: Literal["unet"] = "unet"
    channels: Annotated[int, Field(gt=0, multiple_of=2)] = 128
    multipliers: Annotated[tuple[int | float, ...], Field(min_length=1)] = (1, 2, 2, 2)
    blocks: Annotated[int, Field(ge=1)] = 2
    attention_levels: tuple[int, ...] = (1,)
    head_channels: Annotated[int, Field(gt=0)] | None = None
    mid_attention: bool = True
    mid_attention_norm: bool = True
    scale_shift: bool = False
    resample: Literal["conv", "resnet"] = "conv"
    resample_filter: Filter = "box"
    down_padding: Literal[0, 1] = 0
    time_width: Annotated[int, Field(gt=0)] | None = None
    freq_shift: Literal[0, 1] = 1
    flip_sin_to_cos: bool = False
    max_period: Annotated[float, Field(gt=1)] = 1e4
    fourier: Annotated[float, Field(gt=0)] | None = None
    norm: Norm = "group"
    skip_scale: Annotated[float, Field(gt=0)] = 1.0
    groups: Annotated[int, Field(gt=0)] = 32
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    extra_channels: Annotated[int, Field(ge=0)] = 0
    token_width: Annotated[int, Field(ge=0)] = 0
    zero_init: bool = True
    zero_extra: bool = False
    channels_last: bool = True
    checkpointing: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.resample_filter != "box" and self.resample == "conv":
            raise ValueError(
                f"resample_filter = {self.resample_filter!r} acts inside residual blocks; set resample=resnet"
            )
        for level, multiplier in enumerate(self.multipliers):
            width = self.channels * multiplier
            if multiplier <= 0 or abs(width - round(width)) > 1e-6:
                raise ValueError(f"multipliers[{level}] = {multiplier} gives {width:g} channels; choose a whole number")
        for level, width in enumerate(self.level_widths):
            if width % self.groups:
                raise ValueError(f"groups = {self.groups} does not divide the {width} channels of level {level}")
        for level in self.attention_levels:
            if not 0 <= level < len(self.multipliers):
                raise ValueError(f"attention_levels has {level}, the levels are 0 to {len(self.multipliers) - 1}")
        last = len(self.multipliers) - 1
        for level in (*self.attention_levels, *((last,) if self.mid_attention else ())):
            if self.head_channels is not None and self.level_widths[level] % self.head_channels:
                raise ValueError(
                    f"head_channels = {self.head_channels} does not divide the {self.level_widths[level]} channels "
                    f"of level {level}"
                )
        if self.token_width and not (self.attention_levels or self.mid_attention):
            raise ValueError("tokens come, but no level has attention to read them; set attention_levels")
        return self

    @classmethod
    def for_data(cls, shape: tuple[int, ...]) -> UNet:
        """A U-Net sized for images (C, H, W) with sides from 8 to 256; `describe` says what was chosen.

        There are as many levels as leave the coarsest at least 4 pixels; attention stands at 8 and 16 pixels.

        Raises:
            UsageError: `shape` is not an image's, or a side is out of range.
        """
        if len(shape) != 3 or min(shape[1:]) < 8 or max(shape[1:]) > _BY_SIZE[-1][0]:
            raise UsageError(
                f"no U-Net is sized for data of shape {shape}; give images (C, H, W) with sides from 8 to "
                f"{_BY_SIZE[-1][0]}, or configure the network yourself"
            )
        short, long = min(shape[1:]), max(shape[1:])
        channels, multipliers, groups = next(row[1:] for row in _BY_SIZE if long <= row[0])
        levels = 1
        while levels < len(multipliers) and short >> levels >= 4 and not any(side % 2**levels for side in shape[1:]):
            levels += 1
        attention = tuple(level for level in range(levels) if 8 <= long >> level <= 16)
        return cls(channels=channels, multipliers=multipliers[:levels], groups=groups, attention_levels=attention)

    def describe(self, shape: tuple[int, ...]) -> str:
        """One line on what this network is for data of `shape`, for reports."""
        sides = [f"{shape[1] >> level}x{shape[2] >> level}" for level in sorted(self.attention_levels)]
        return (
            f"U-Net for {shape[1]}x{shape[2]} with {len(self.multipliers)} levels of "
            f"{', '.join(str(width) for width in self.level_widths)} channels, {self.blocks} blocks each, "
            f"attention at {' and '.join(sides) or 'no level'}, {count_parameters(self, shape) / 1e6:.1f} M weights"
        )

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(round(self.channels * multiplier) for multiplier in self.multipliers)

    @property
    def divisor(self) -> int:
        """What both sides of an image must be divisible by."""
        return 1 << (len(self.multipliers) - 1)

    def check_size(self, height: int, width: int) -> None:
        """Raise a `UsageError` for an image that the levels cannot halve evenly."""
        if height % self.divisor or width % self.divisor:
            raise UsageError(
                f"the image is {height} x {width}, a U-Net of {len(self.multipliers)} levels needs sides divisible by "
                f"{self.divisor}; resize the data or use fewer levels"
            )

    def build(self, shape: tuple[int, ...], *, out_channels: int | None = None, seed: int = 0) -> UNetNetwork:
        """Make the network for images (C, H, W). Weights serve every size that `check_size` accepts.

        Raises:
            UsageError: `shape` is not an image's, or its sides cannot be halved often enough.
        """
        if len(shape) != 3:
            raise UsageError(f"a U-Net needs data of shape (C, H, W), not {shape}; use the network mlp for vectors")
        self.check_size(*shape[1:])
        out = shape[0] if out_channels is None else out_channels
        with seeded(seed):
            if not (self.zero_extra and self.extra_channels):
                return UNetNetwork(self, shape[0], out)
            network = UNetNetwork(self.replace(extra_channels=0), shape[0], out)
            network.widen(self)
            return network


_Attention = ImageAttention | SpatialTransformer


def _attended(attention: nn.Module, x: Tensor, context: Context | None) -> Tensor:
    """After an attention, which reads the condition's tokens or knows none."""
    reads = isinstance(attention, SpatialTransformer)
    value: Tensor = attention(x, context) if reads else attention(x)
    return value


class _Stage(nn.Module):
    """A residual block and the attention behind it."""

    def __init__(self, resnet: ResBlock, attention: _Attention | None) -> None:
        super().__init__()
        self.resnet = resnet
        self.attention = nn.Identity() if attention is None else attention

    def forward(self, x: Tensor, emb: Tensor, seeds: Tensor | None, context: Context | None) -> Tensor:
        return _attended(self.attention, self.resnet(x, emb, seeds), context)


class _Middle(nn.Module):
    """Residual block, attention, residual block at the coarsest level."""

    def __init__(self, resnet_in: ResBlock, attention: _Attention | None, resnet_out: ResBlock) -> None:
        super().__init__()
        self.resnet_in = resnet_in
        self.attention = nn.Identity() if attention is None else attention
        self.resnet_out = resnet_out

    def forward(self, x: Tensor, emb: Tensor, seeds: Tensor | None, context: Context | None) -> Tensor:
        value: Tensor = self.resnet_out(_attended(self.attention, self.resnet_in(x, emb, seeds), context), emb, seeds)
        return value


class UNetNetwork(Network):
    """The live U-Net. A block's name is its path among the modules.

    Blocks: "stem"; on the way down "down.0.0", "down.0.1", "down.0.sample", "down.1.0", ...; "mid"; on the way up,
    coarsest level first, "up.0.0", ..., "up.0.sample", "up.1.0", ...; "output".
    """

    def __init__(self, part: UNet, channels: int, out_channels: int) -> None:
        super().__init__()
        self.part = part
        self.in_channels = channels + part.extra_channels
        self.cond_width = part.time_width or 4 * part.channels
        self.widths, self.graph = {}, {}
        self._layers = 0
        widths = part.level_widths
        self.time = TimeEmbedding(
            part.channels,
            self.cond_width,
            freq_shift=part.freq_shift,
            cosine_first=part.flip_sin_to_cos,
            max_period=part.max_period,
            fourier=part.fourier,
        )
        self.stem = nn.Conv2d(self.in_channels, widths[0], 3, padding=1)
        self._name("stem", widths[0])
        skips = ["stem"]
        self.down = nn.ModuleList(self._way_down(level, skips) for level in range(len(widths)))
        self.mid = self._middle(widths[-1], source=skips[-1])
        self.up = nn.ModuleList(self._way_up(level, skips) for level in reversed(range(len(widths))))
        self.output = ImageHead(
            widths[0],
            out_channels,
            groups=part.groups,
            eps=part.norm_eps,
            zero_init=part.zero_init,
            norm=part.norm,
        )
        self._name("output", out_channels, next(reversed(self.graph)))

    @torch.no_grad()
    def widen(self, part: UNet) -> None:
        """Take the extra channels of `part`, whose weights are zero."""
        narrow, self.part = self.stem, part
        self.in_channels = narrow.in_channels + part.extra_channels
        self.stem = nn.Conv2d(self.in_channels, narrow.out_channels, 3, padding=1)
        self.stem.weight.zero_()
        self.stem.weight[:, : narrow.in_channels] = narrow.weight
        self.stem.load_state_dict({"weight": self.stem.weight, "bias": narrow.bias})

    def _name(self, name: str, width: int, *reads: str) -> None:
        self.widths[name] = width
        self.graph[name] = reads

    def _resnet(self, channels_in: int, channels_out: int, resample: Resample = "none") -> ResBlock:
        part = self.part
        self._layers += 1
        return ResBlock(
            channels_in,
            channels_out,
            time_width=self.cond_width,
            groups=part.groups,
            eps=part.norm_eps,
            scale_shift=part.scale_shift,
            dropout=Dropout(part.dropout, self._layers),
            resample=resample,
            filter=part.resample_filter,
            zero_init=part.zero_init,
            norm=part.norm,
            scale=part.skip_scale,
        )

    def _attention(self, channels: int, *, norm: bool = True) -> _Attention:
        part = self.part
        heads = channels // (part.head_channels or channels)
        kind: Callable[..., _Attention] = ImageAttention
        if part.token_width:
            kind = partial(SpatialTransformer, token_width=part.token_width)
        return kind(
            channels,
            heads,
            groups=part.groups if norm else None,
            eps=part.norm_eps,
            zero_init=part.zero_init,
            norm=part.norm,
            scale=part.skip_scale,
        )

    def _way_down(self, level: int, skips: list[str]) -> nn.ModuleDict:
        """The blocks of a level; their names are pushed on `skips`."""
        part, width = self.part, self.part.level_widths[level]
        blocks: dict[str, nn.Module] = {}
        for j in range(part.blocks):
            attention = self._attention(width) if level in part.attention_levels else None
            blocks[str(j)] = _Stage(self._resnet(self.widths[skips[-1]], width), attention)
            self._name(f"down.{level}.{j}", width, skips[-1])
            skips.append(f"down.{level}.{j}")
        if level < len(part.multipliers) - 1:
            conv = part.resample == "conv"
            blocks["sample"] = Downsample(width, part.down_padding) if conv else self._resnet(width, width, "down")
            self._name(f"down.{level}.sample", width, skips[-1])
            skips.append(f"down.{level}.sample")
        return nn.ModuleDict(blocks)

    def _middle(self, width: int, *, source: str) -> _Middle:
        self._name("mid", width, source)
        attention = self._attention(width, norm=self.part.mid_attention_norm) if self.part.mid_attention else None
        return _Middle(self._resnet(width, width), attention, self._resnet(width, width))

    def _way_up(self, level: int, skips: list[str]) -> nn.ModuleDict:
        """The blocks of a level; each takes one name from the end of `skips`."""
        part, width = self.part, self.part.level_widths[level]
        place = len(part.multipliers) - 1 - level
        blocks: dict[str, nn.Module] = {}
        for j in range(part.blocks + 1):
            before, skip = next(reversed(self.graph)), skips.pop()
            attention = self._attention(width) if level in part.attention_levels else None
            blocks[str(j)] = _Stage(self._resnet(self.widths[before] + self.widths[skip], width), attention)
            self._name(f"up.{place}.{j}", width, before, skip)
        if level > 0:
            blocks["sample"] = Upsample(width) if part.resample == "conv" else self._resnet(width, width, "up")
            self._name(f"up.{place}.sample", width, next(reversed(self.graph)))
        return nn.ModuleDict(blocks)

    def forward(
        self,
        x: Tensor,
        told: Tensor,
        cond: Embedding | None = None,
        *,
        seeds: Tensor | None = None,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
    ) -> Output:
        """Evaluate the U-Net on x, (B, C + extra_channels, H, W); see `Network.forward`.

        Raises:
            UsageError: Sides that cannot be halved evenly; unknown names; `told` in half precision; no tokens, or of
                another width, where the network takes some.
        """
        self.part.check_size(*x.shape[2:])
        emb, context = self.time(told, cond), Context.of(cond, self.part.token_width)
        checkpointing = self.part.checkpointing and torch.is_grad_enabled()
        if self.part.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)

        def compute(name: str, inputs: list[Tensor]) -> Tensor:
            block = self.get_submodule(name)
            if name == "stem":
                return call_block(block, x, checkpointing=False)
            if name == "output":
                return call_block(block, *inputs, checkpointing=checkpointing).contiguous()
            joined = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)
            if name.endswith(".sample"):
                return call_block(block, joined, emb, seeds, checkpointing=checkpointing)
            return call_block(block, joined, emb, seeds, context, checkpointing=checkpointing)

        return execute(self, compute, taps=taps, given=given)
