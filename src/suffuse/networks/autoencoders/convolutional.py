"""The convolutional encoder and decoder that several autoencoders share.

Source: rombach2022ldm: the encoder and decoder of its autoencoders, a residual convolutional network each.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from suffuse.networks.autoencoders.base import AutoencoderPart, grid_of
from suffuse.networks.blocks.attention import ImageAttention
from suffuse.networks.blocks.residual import Downsample, ImageHead, ResBlock, Upsample

__all__ = ["Convolutional", "channels_last", "decoder_of", "encoder_of", "last_layer_of"]


class Convolutional(AutoencoderPart):
    """Fields of a convolutional encoder and decoder.

    Attributes:
        channels: Base width.
        multipliers: Width of each level over `channels`, finest level first; each level after the first halves sides.
        blocks: Residual blocks of a level on the way down; one more on the way up.
        latent_channels: Channels of the latent.
        attention: Attention at the coarsest level.
        groups: Groups of the norms.
        norm_eps: Their epsilon.
    """

    channels: Annotated[int, Field(gt=0)] = 64
    multipliers: Annotated[tuple[int, ...], Field(min_length=1)] = (1, 2, 4)
    blocks: Annotated[int, Field(ge=1)] = 2
    latent_channels: Annotated[int, Field(ge=1)] = 4
    attention: bool = True
    groups: Annotated[int, Field(gt=0)] = 32
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6

    @model_validator(mode="after")
    def _check(self) -> Self:
        for multiplier in self.multipliers:
            if multiplier < 1 or (self.channels * multiplier) % self.groups:
                raise ValueError(
                    f"groups = {self.groups} does not divide {self.channels} * {multiplier} channels; change one"
                )
        return self

    @property
    def factor(self) -> int:
        """Pixels of a side for one of the coarsest level's."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def width(self) -> int:
        """Channels of the coarsest level."""
        return self.channels * self.multipliers[-1]

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of the coarsest level for images of `shape`.

        Raises:
            UsageError: Not images, or sides that the factor does not divide.
        """
        halved = f"halved {len(self.multipliers) - 1} times"
        return grid_of(shape, self.factor, done=halved, fewer="network.multipliers")

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(latent_channels, H / factor, W / factor); raises as `grid`."""
        return (self.latent_channels, *self.grid(shape))


def encoder_of(part: Convolutional, channels_in: int, channels_out: int) -> nn.Sequential:
    """Images (B, channels_in, H, W) to (B, channels_out, H / factor, W / factor); a sequence of named layers."""
    widths = [part.channels * multiplier for multiplier in part.multipliers]
    layers: list[tuple[str, nn.Module]] = [("stem", nn.Conv2d(channels_in, widths[0], 3, padding=1))]
    width = widths[0]
    for level, wide in enumerate(widths):
        for j in range(part.blocks):
            layers.append((f"down_{level}_{j}", _block(part, width, wide)))
            width = wide
        if level < len(widths) - 1:
            layers.append((f"down_{level}_sample", Downsample(width, padding=0)))
    layers += _middle(part, width)
    layers.append(("head", _head(part, width, channels_out)))
    return nn.Sequential(OrderedDict(layers))


def decoder_of(part: Convolutional, channels_in: int, channels_out: int) -> nn.Sequential:
    """The way back: (B, channels_in, H / factor, W / factor) to (B, channels_out, H, W)."""
    widths, width = [part.channels * multiplier for multiplier in part.multipliers], part.width
    layers: list[tuple[str, nn.Module]] = [("stem", nn.Conv2d(channels_in, width, 3, padding=1))]
    layers += _middle(part, width)
    for place, wide in enumerate(reversed(widths)):
        for j in range(part.blocks + 1):
            layers.append((f"up_{place}_{j}", _block(part, width, wide)))
            width = wide
        if place < len(widths) - 1:
            layers.append((f"up_{place}_sample", Upsample(width)))
    layers.append(("head", _head(part, width, channels_out)))
    return nn.Sequential(OrderedDict(layers))


def last_layer_of(decoder: nn.Sequential) -> Tensor:
    """Weight of a decoder's last convolution."""
    weight = decoder.get_submodule("head.conv").weight
    assert isinstance(weight, Tensor)
    return weight


def channels_last(x: Tensor) -> Tensor:
    """The layout in which convolutions are fastest."""
    return x.contiguous(memory_format=torch.channels_last)


def _block(part: Convolutional, channels_in: int, channels_out: int) -> ResBlock:
    return ResBlock(channels_in, channels_out, time_width=None, groups=part.groups, eps=part.norm_eps, zero_init=False)


def _middle(part: Convolutional, width: int) -> list[tuple[str, nn.Module]]:
    attention = ImageAttention(width, 1, groups=part.groups, eps=part.norm_eps, zero_init=False)
    before, after = _block(part, width, width), _block(part, width, width)
    between = [("mid_attention", attention)] if part.attention else []
    return [("mid_in", before), *between, ("mid_out", after)]


def _head(part: Convolutional, channels_in: int, channels_out: int) -> ImageHead:
    return ImageHead(channels_in, channels_out, groups=part.groups, eps=part.norm_eps, zero_init=False)
