"""A tiny autoencoder of plain convolutions: the shape of distilled decoders, such as TAESD of Stable Diffusion."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from suffuse.networks.autoencoders.base import AutoencoderNetwork, AutoencoderPart, grid_of
from suffuse.networks.autoencoders.convolutional import channels_last
from suffuse.networks.blocks.residual import double
from suffuse.networks.part import seeded

__all__ = ["TinyAutoencoder"]

_BOUND = 3.0  # latents are squashed to within it before they are decoded


class TinyAutoencoder(AutoencoderPart):
    """Convolutions and ReLU without norms, attention or variance; latents are of unit scale already.

    Source: bohan2023taesd; its network sees images in [0, 1], ours are mapped from and to [-1, 1].

    Attributes:
        channels: Width of the encoder at all levels.
        decoder_channels: Width of the decoder.
        blocks: Blocks of each level of the encoder, finest first; each level after the first halves sides.
        decoder_blocks: Of the decoder, coarsest first; as many levels.
        latent_channels: Channels of the latent.
    """

    kind: Literal["tiny"] = "tiny"
    channels: Annotated[int, Field(ge=1)] = 64
    decoder_channels: Annotated[int, Field(ge=1)] = 64
    blocks: Annotated[tuple[int, ...], Field(min_length=1)] = (1, 3, 3, 3)
    decoder_blocks: Annotated[tuple[int, ...], Field(min_length=1)] = (3, 3, 3, 1)
    latent_channels: Annotated[int, Field(ge=1)] = 4

    @model_validator(mode="after")
    def _check(self) -> TinyAutoencoder:
        if len(self.blocks) != len(self.decoder_blocks):
            raise ValueError(
                f"blocks has {len(self.blocks)} levels and decoder_blocks {len(self.decoder_blocks)}; give both as many"
            )
        return self

    @property
    def factor(self) -> int:
        """Pixels of a side for one of the latent's."""
        return int(2 ** (len(self.blocks) - 1))

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(latent_channels, H / factor, W / factor).

        Raises:
            UsageError: Not images, or sides that the factor does not divide.
        """
        done = f"halved {len(self.blocks) - 1} times"
        return (
            self.latent_channels,
            *grid_of(shape, self.factor, done=done, fewer="network.blocks and network.decoder_blocks"),
        )

    def build(self, shape: tuple[int, ...], *, seed: int = 0) -> AutoencoderNetwork:
        """Make the autoencoder; see `AutoencoderPart.build`."""
        self.latent_shape(shape)
        with seeded(seed):
            return _TinyNetwork(self, shape[0])


class _TinyBlock(nn.Module):
    """relu(x + three convolutions), (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv3(torch.relu(self.conv2(torch.relu(self.conv1(x))))) + x)


class _Double(nn.Module):
    """Each pixel four times."""

    def forward(self, x: Tensor) -> Tensor:
        return double(x)


class _TinyNetwork(AutoencoderNetwork):
    def __init__(self, part: TinyAutoencoder, channels: int) -> None:
        super().__init__()
        width = part.channels
        down: list[tuple[str, nn.Module]] = [("stem", nn.Conv2d(channels, width, 3, padding=1))]
        for level, blocks in enumerate(part.blocks):
            if level:
                down.append((f"down_{level}", nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)))
            down += [(f"block_{level}_{j}", _TinyBlock(width)) for j in range(blocks)]
        down.append(("head", nn.Conv2d(width, part.latent_channels, 3, padding=1)))
        self.encoder = nn.Sequential(OrderedDict(down))
        width = part.decoder_channels
        up: list[tuple[str, nn.Module]] = [("stem", nn.Conv2d(part.latent_channels, width, 3, padding=1))]
        up.append(("relu", nn.ReLU()))
        for place, blocks in enumerate(part.decoder_blocks):
            if place:
                up.append((f"double_{place}", _Double()))
                up.append((f"up_{place}", nn.Conv2d(width, width, 3, padding=1, bias=False)))
            up += [(f"block_{place}_{j}", _TinyBlock(width)) for j in range(blocks)]
        up.append(("head", nn.Conv2d(width, channels, 3, padding=1)))
        self.decoder = nn.Sequential(OrderedDict(up))

    @property
    def last_layer(self) -> Tensor:
        """Weight of the decoder's last convolution."""
        weight = self.decoder.get_submodule("head").weight
        assert isinstance(weight, Tensor)
        return weight

    def moments(self, x: Tensor) -> tuple[Tensor, None]:
        """Latents; they have no variance."""
        z: Tensor = self.encoder(channels_last((x + 1) / 2))
        return z.contiguous(), None

    def images(self, z: Tensor) -> Tensor:
        """Images of latents."""
        images: Tensor = 2 * self.decoder(channels_last(_BOUND * torch.tanh(z / _BOUND))) - 1
        return images.contiguous()
