"""DiffNeXt: the U-Net of Wuerstchen's stage B, which paints latents from a small semantic code and text.

Source: pernias2024wuerstchen, in the version that its authors released.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.networks.blocks.condition import check_condition
from suffuse.networks.blocks.convnext import (
    ABHead,
    Stage,
    TimeWaves,
    bounded_spread,
    head_channels,
    initialise,
    pixel_norm,
)
from suffuse.networks.contract import Network, Output
from suffuse.networks.execution import call_block, execute
from suffuse.networks.part import NetworkPart, seeded

__all__ = ["DiffNeXt", "DiffNeXtNetwork"]

_Probability = Annotated[float, Field(ge=0, lt=1)]
_BY_LEVEL = ("blocks", "layout", "heads", "inject")


class DiffNeXt(NetworkPart):
    """U-Net of ConvNeXt stages on patches, with a skip for each level and a map that is read at chosen levels.

    The defaults are the released network's. Fields with one value a level have the finest level first.

    Time and a condition's vector: as in `ConvNeXtPrior` (`cond_width` is `frequencies`). The condition's map, of any
    size, is brought to the size of each level that reads it, and concatenated in all its convolution layers.

    Source: pernias2024wuerstchen. Deviation: the paper's text lets attention read the map; its authors' code, followed
    here, concatenates it.

    Attributes:
        widths: Channels by level; each level after the first halves the sides.
        blocks: Stages by level, on the way down and again on the way up.
        layout: Layers of a stage by level: C convolution, T time, A attention to pixels and text; C first.
        heads: Attention heads by level; 0 where the layout has no A.
        inject: Whether a level reads the map; of no account when there is none.
        patch: Side of a patch in pixels.
        context_width: Width that the text's tokens and the map are brought to.
        frequencies: Sinusoids of time.
        time_scale: Factor on what is told, before the sinusoids.
        kernel: Side of the depthwise convolutions, odd.
        dropout: Probability of dropout in the MLPs and after attention, one for all levels or by level.
        head: `ab` gives (x - A) / b for outputs A and B, with b from 1e-3 to 0.999 by a sigmoid of B: an estimate of
            eps that is 2 x at first, for inputs that are not scaled; `plain` gives the output itself, zero at first,
            for other predictions.
        token_width: Width of the text tokens; 0 for none.
        map_channels: Channels of the map; 0 for none.
        extra_channels: Input channels beyond the data's, for conditions that are concatenated.
        checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    kind: Literal["diffnext"] = "diffnext"
    widths: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] = (320, 640, 1280, 1280)
    blocks: tuple[Annotated[int, Field(ge=1)], ...] = (4, 4, 14, 4)
    layout: tuple[str, ...] = ("CT", "CTA", "CTA", "CTA")
    heads: tuple[Annotated[int, Field(ge=0)], ...] = (0, 10, 20, 20)
    inject: tuple[bool, ...] = (False, True, True, True)
    patch: Annotated[int, Field(gt=0)] = 2
    context_width: Annotated[int, Field(gt=0)] = 1024
    frequencies: Annotated[int, Field(gt=2, multiple_of=2)] = 64
    time_scale: Annotated[float, Field(gt=0)] = 10.0
    kernel: Annotated[int, Field(gt=0)] = 3
    dropout: _Probability | tuple[_Probability, ...] = 0.1
    head: Literal["ab", "plain"] = "ab"
    token_width: Annotated[int, Field(ge=0)] = 0
    map_channels: Annotated[int, Field(ge=0)] = 0
    extra_channels: Annotated[int, Field(ge=0)] = 0
    checkpointing: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        levels = len(self.widths)
        by_level = {name: getattr(self, name) for name in _BY_LEVEL}
        if isinstance(self.dropout, tuple):
            by_level["dropout"] = self.dropout
        for name, values in by_level.items():
            if len(values) != levels:
                raise ValueError(f"{name} has {len(values)} values, but widths has {levels} levels; give one a level")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel = {self.kernel} is even, which would shift the image; choose an odd number")
        if self.map_channels and not any(self.inject):
            raise ValueError(f"map_channels = {self.map_channels}, but no level reads the map; set inject for some")
        for level, (layout, heads, width) in enumerate(zip(self.layout, self.heads, self.widths, strict=True)):
            if not layout.startswith("C") or set(layout) - set("CTA"):
                raise ValueError(f"layout[{level}] = {layout!r}; begin with C and use the letters C, T and A only")
            if "A" not in layout and heads:
                raise ValueError(f"heads[{level}] = {heads}, but layout[{level}] = {layout!r} has no A; write 0")
            if "A" in layout and (not heads or width % heads):
                raise ValueError(f"heads[{level}] = {heads} does not divide widths[{level}] = {width}; take a divisor")
        return self

    @property
    def divisor(self) -> int:
        """What both sides of an image must be divisible by."""
        return self.patch << (len(self.widths) - 1)

    @property
    def dropouts(self) -> tuple[float, ...]:
        """Probability of dropout by level."""
        return self.dropout if isinstance(self.dropout, tuple) else (self.dropout,) * len(self.widths)

    @property
    def injected(self) -> tuple[int, ...]:
        """Channels by level that the map has in it."""
        return tuple(self.context_width if inject and self.map_channels else 0 for inject in self.inject)

    def check_size(self, height: int, width: int) -> None:
        """Raise a `UsageError` for an image that patches and levels cannot divide evenly."""
        if height % self.divisor or width % self.divisor:
            raise UsageError(
                f"the image is {height} x {width}, a DiffNeXt of {len(self.widths)} levels on patches of side "
                f"{self.patch} needs sides divisible by {self.divisor}; resize the data or use fewer levels"
            )

    def build(self, shape: tuple[int, ...], *, out_channels: int | None = None, seed: int = 0) -> DiffNeXtNetwork:
        """Make the network for images (C, H, W). Weights serve every size that `check_size` accepts.

        Raises:
            UsageError: `shape` is not an image's or cannot be divided evenly; the head cannot give so many channels.
        """
        channels = head_channels(self.head, shape, out_channels)
        self.check_size(*shape[1:])
        with seeded(seed):
            return DiffNeXtNetwork(self, shape[0], channels)


class _Stem(nn.Module):
    """Patches to pixels of a coarser image, 1x1 convolution, norm."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.conv = nn.Conv2d(channels * patch**2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(F.pixel_unshuffle(x, self.patch))
        # In the dtype of x: under autocast the convolution gives bfloat16, but the sum over stages stays float32.
        return pixel_norm(h.permute(0, 2, 3, 1).to(x.dtype)).permute(0, 3, 1, 2)


class _Resample(nn.Module):
    """Norm, then a convolution that halves both sides, or a transposed one that doubles them."""

    def __init__(self, width_in: int, width_out: int, kind: type[nn.Conv2d] | type[nn.ConvTranspose2d]) -> None:
        super().__init__()
        self.conv = kind(width_in, width_out, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.conv(pixel_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return value.to(x.dtype)


class _Maps(nn.Module):
    """The map for each way of each level that reads it: resized, then a 1x1 convolution."""

    def __init__(self, part: DiffNeXt) -> None:
        super().__init__()
        last = len(part.widths) - 1
        places = [("down", level) for level in range(last + 1)] + [("up", place) for place in range(last + 1)]
        self.convs = nn.ModuleDict(
            {
                f"{way}_{at}": nn.Conv2d(part.map_channels, part.context_width, 1)
                for way, at in places
                if part.injected[at if way == "down" else last - at]
            }
        )

    def forward(self, map: Tensor, place: str, size: torch.Size) -> Tensor:
        """(B, map_channels, h, w) -> (B, context_width, *size), for a place such as "down_1"."""
        conv = self.convs[place]
        assert isinstance(conv.weight, Tensor)
        # Corners stay where they are, as in the released weights' training; resizing knows no half precision.
        resized = F.interpolate(map.float(), size, mode="bicubic", antialias=True, align_corners=True)
        value: Tensor = conv(resized.to(conv.weight.dtype))
        return value


class DiffNeXtNetwork(Network):
    """The live DiffNeXt. A block's name is its path among the modules.

    Blocks: "stem"; on the way down "down.0.0", "down.0.1", ..., "down.0.sample", "down.1.0", ...; on the way up,
    coarsest level first, "up.0.0", ..., "up.0.sample", "up.1.0", ...; "output". On the way up the first stage of each
    level but the coarsest reads a skip, what the level's last stage on the way down gave.
    """

    def __init__(self, part: DiffNeXt, channels: int, out_channels: int) -> None:
        super().__init__()
        self.part = part
        self.in_channels = channels + part.extra_channels
        self.cond_width = part.frequencies
        self.widths, self.graph = {}, {}
        self._layer = itertools.count()
        self.time = TimeWaves(part.frequencies, part.time_scale)
        self.text = None
        if part.token_width:
            norm = nn.LayerNorm(part.context_width, eps=1e-6, elementwise_affine=False)
            self.text = nn.Sequential(nn.Linear(part.token_width, part.context_width), norm)
        self.maps = _Maps(part) if any(part.injected) else None
        self.stem = _Stem(self.in_channels, part.widths[0], part.patch)
        self._name("stem", part.widths[0])
        levels = range(len(part.widths))
        self.down = nn.ModuleList(self._way_down(level) for level in levels)
        self.up = nn.ModuleList(self._way_up(level) for level in reversed(levels))
        spread = bounded_spread if part.head == "ab" else None
        self.output = ABHead(part.widths[0], out_channels, patch=part.patch, spread=spread)
        self._name("output", out_channels, self._last)
        conditions: list[nn.Module] = [] if self.maps is None else list(self.maps.convs.values())
        if self.text is not None:
            conditions.append(self.text[0])
        initialise(self, inputs=self.stem.conv, conditions=conditions, stages=sum(part.blocks))

    @property
    def _last(self) -> str:
        return next(reversed(self.graph))

    def _name(self, name: str, width: int, *reads: str) -> None:
        self.widths[name] = width
        self.graph[name] = reads

    def _stage(self, level: int, skip_channels: int = 0) -> Stage:
        part = self.part
        return Stage(
            part.layout[level],
            part.widths[level],
            heads=part.heads[level],
            frequencies=part.frequencies,
            text_width=part.context_width if part.token_width else 0,
            map_channels=part.injected[level],
            skip_channels=skip_channels,
            kernel=part.kernel,
            dropout=part.dropouts[level],
            layer=self._layer,
        )

    def _way_down(self, level: int) -> nn.ModuleDict:
        """The blocks of a level."""
        part, width = self.part, self.part.widths[level]
        blocks: dict[str, nn.Module] = {}
        for j in range(part.blocks[level]):
            blocks[str(j)] = self._stage(level)
            self._name(f"down.{level}.{j}", width, self._last)
        if level < len(part.widths) - 1:
            blocks["sample"] = _Resample(width, part.widths[level + 1], nn.Conv2d)
            self._name(f"down.{level}.sample", part.widths[level + 1], self._last)
        return nn.ModuleDict(blocks)

    def _way_up(self, level: int) -> nn.ModuleDict:
        """The blocks of a level; the first reads the skip."""
        part, width = self.part, self.part.widths[level]
        place = len(part.widths) - 1 - level
        blocks: dict[str, nn.Module] = {}
        for j in range(part.blocks[level]):
            joins = place > 0 and j == 0
            blocks[str(j)] = self._stage(level, width if joins else 0)
            skip = (f"down.{level}.{part.blocks[level] - 1}",) if joins else ()
            self._name(f"up.{place}.{j}", width, self._last, *skip)
        if level > 0:
            blocks["sample"] = _Resample(width, part.widths[level - 1], nn.ConvTranspose2d)
            self._name(f"up.{place}.sample", part.widths[level - 1], self._last)
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
        """Evaluate the network on x, (B, C + extra_channels, H, W); see `Network.forward`.

        Raises:
            UsageError: Sides that cannot be divided evenly; tokens or map missing or of another width; unknown names;
                `told` in half precision.
        """
        part = self.part
        part.check_size(*x.shape[2:])
        tokens, mask, small = check_condition(cond, token_width=part.token_width, map_channels=part.map_channels)
        waves = self.time(told, cond)
        text = None if self.text is None or tokens is None else self.text(tokens.to(self.stem.conv.weight.dtype))
        checkpointing = part.checkpointing and torch.is_grad_enabled()
        maps: dict[str, Tensor] = {}

        def compute(name: str, inputs: list[Tensor]) -> Tensor:
            block, before = self.get_submodule(name), inputs[0] if inputs else x
            if name == "output":
                return call_block(block, before, x, checkpointing=checkpointing)
            if name == "stem" or name.endswith(".sample"):
                return call_block(block, before, checkpointing=False)
            way, at, _ = name.split(".")
            place, skip = f"{way}_{at}", inputs[1] if len(inputs) == 2 else None
            if self.maps is not None and small is not None and place in self.maps.convs and place not in maps:
                maps[place] = self.maps(small, place, before.shape[2:])
            told_all = (waves, text, mask, maps.get(place), skip, seeds)
            return before + call_block(block, before, *told_all, checkpointing=checkpointing)

        return execute(self, compute, taps=taps, given=given)
