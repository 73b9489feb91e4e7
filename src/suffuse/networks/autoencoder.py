"""Autoencoders: what turns images into latents and back.

Source: rombach2022ldm: the encoder and decoder of its autoencoders, a residual convolutional network each.
"""

from __future__ import annotations

import abc
import functools
from collections import OrderedDict
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.base.part import Joint, Part
from suffuse.networks.blocks.attention import ImageAttention
from suffuse.networks.blocks.residual import Downsample, ImageHead, ResBlock, Upsample
from suffuse.networks.part import seeded

__all__ = ["Autoencoder", "AutoencoderNetwork", "AutoencoderPart", "KLAutoencoder"]

# Log-variances beyond these overflow in their exponential or leave no noise at all.
_LOG_VARIANCE = (-30.0, 20.0)


class AutoencoderNetwork(nn.Module, abc.ABC):
    """Images to the mean and log-variance of their latents, and latents to images."""

    def compile(self, *args: Any, **kwargs: Any) -> None:  # Any: as for torch's modules
        """Compile the parts, which are what is called."""
        for part in self.children():
            part.compile(*args, **kwargs)

    @abc.abstractmethod
    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of images: (B, C, H, W) -> twice (B, c, h, w)."""

    @abc.abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Images of latents, (B, c, h, w) -> (B, C, H, W); near [-1, 1], not clipped."""


class AutoencoderPart(Part, abc.ABC):
    """Configuration of an autoencoder; `build` makes the module with its weights."""

    kind: str

    @property
    @abc.abstractmethod
    def factor(self) -> int:
        """Pixels of a side for one of the latent's."""

    @abc.abstractmethod
    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a sample's latent.

        Raises:
            UsageError: Images of `shape` cannot be encoded.
        """

    @abc.abstractmethod
    def build(self, shape: tuple[int, ...], *, seed: int = 0) -> AutoencoderNetwork:
        """Make the autoencoder for images of one shape, (C, H, W); equal seeds give equal weights.

        Raises:
            UsageError: Images of `shape` cannot be encoded.
        """


class KLAutoencoder(AutoencoderPart):
    """Convolutional variational autoencoder.

    Attributes:
        channels: Base width.
        multipliers: Width of each level over `channels`, finest level first; each level after the first halves sides.
        blocks: Residual blocks of a level on the way down; one more on the way up.
        latent_channels: Channels of the latent.
        attention: Attention at the coarsest level.
        groups: Groups of the norms.
        norm_eps: Their epsilon.
    """

    kind: Literal["kl"] = "kl"
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
        """Pixels of a side for one of the latent's."""
        return int(2 ** (len(self.multipliers) - 1))

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(latent_channels, H / factor, W / factor).

        Raises:
            UsageError: Not images, or sides that the factor does not divide.
        """
        if len(shape) != 3:
            raise UsageError(f"an autoencoder takes images (C, H, W), but the data have shape {shape}; choose images")
        if any(side % self.factor for side in shape[1:]):
            raise UsageError(
                f"images of {shape[1]}x{shape[2]} cannot be halved {len(self.multipliers) - 1} times; choose another "
                f"size, a multiple of {self.factor}, or fewer network.multipliers"
            )
        return (self.latent_channels, shape[1] // self.factor, shape[2] // self.factor)

    def build(self, shape: tuple[int, ...], *, seed: int = 0) -> AutoencoderNetwork:
        """Make the autoencoder; see `AutoencoderPart.build`."""
        self.latent_shape(shape)
        with seeded(seed):
            return _KLNetwork(self, shape[0])


Autoencoder = Annotated[AutoencoderPart, Joint("autoencoder", KLAutoencoder)]


def _block(part: KLAutoencoder, channels_in: int, channels_out: int) -> ResBlock:
    return ResBlock(channels_in, channels_out, time_width=None, groups=part.groups, eps=part.norm_eps, zero_init=False)


def _middle(part: KLAutoencoder, width: int) -> list[tuple[str, nn.Module]]:
    attention = ImageAttention(width, 1, groups=part.groups, eps=part.norm_eps, zero_init=False)
    before, after = _block(part, width, width), _block(part, width, width)
    between = [("mid_attention", attention)] if part.attention else []
    return [("mid_in", before), *between, ("mid_out", after)]


class _KLNetwork(AutoencoderNetwork):
    """The live network; `encoder` and `decoder` are plain sequences with named layers."""

    def __init__(self, part: KLAutoencoder, channels: int) -> None:
        super().__init__()
        widths = [part.channels * multiplier for multiplier in part.multipliers]
        head = functools.partial(ImageHead, groups=part.groups, eps=part.norm_eps, zero_init=False)
        down: list[tuple[str, nn.Module]] = [("stem", nn.Conv2d(channels, widths[0], 3, padding=1))]
        width = widths[0]
        for level, wide in enumerate(widths):
            for j in range(part.blocks):
                down.append((f"down_{level}_{j}", _block(part, width, wide)))
                width = wide
            if level < len(widths) - 1:
                down.append((f"down_{level}_sample", Downsample(width, padding=0)))
        down += _middle(part, width)
        down.append(("head", head(width, 2 * part.latent_channels)))
        self.encoder = nn.Sequential(OrderedDict(down))
        self.to_moments = nn.Conv2d(2 * part.latent_channels, 2 * part.latent_channels, 1)
        self.from_latent = nn.Conv2d(part.latent_channels, part.latent_channels, 1)
        up: list[tuple[str, nn.Module]] = [("stem", nn.Conv2d(part.latent_channels, width, 3, padding=1))]
        up += _middle(part, width)
        for place, wide in enumerate(reversed(widths)):
            for j in range(part.blocks + 1):
                up.append((f"up_{place}_{j}", _block(part, width, wide)))
                width = wide
            if place < len(widths) - 1:
                up.append((f"up_{place}_sample", Upsample(width)))
        up.append(("head", head(width, channels)))
        self.decoder = nn.Sequential(OrderedDict(up))

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents."""
        x = x.contiguous(memory_format=torch.channels_last)
        mean, log_variance = self.to_moments(self.encoder(x)).chunk(2, dim=1)
        return mean.contiguous(), log_variance.contiguous().clamp(*_LOG_VARIANCE)

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents."""
        z = z.contiguous(memory_format=torch.channels_last)
        images: Tensor = self.decoder(self.from_latent(z))
        return images.contiguous()
