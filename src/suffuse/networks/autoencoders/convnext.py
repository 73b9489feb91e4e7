"""Stage A of Wuerstchen: a light autoencoder of gated depthwise blocks, with a codebook that is dropped after training.

Shape letters: B batch, C channels, H and W an image's sides, c channels of the latent.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from suffuse.networks.autoencoders.base import AutoencoderNetwork, AutoencoderPart, grid_of
from suffuse.networks.autoencoders.codebook import Codebook, CodebookSettings
from suffuse.networks.part import seeded

__all__ = ["ConvNeXtAutoencoder", "GatedBlock"]


class ConvNeXtAutoencoder(AutoencoderPart):
    """Pixels are folded into channels, levels of gated blocks follow, and a batch norm gives latents their scale.

    Its network sees images in [0, 1], as the source's does; `moments` and `decode` map from and to [-1, 1]. The latents
    are not divided by the source's scale_factor (0.3764): a codec measures it.

    Source: pernias2024wuerstchen, stage A.

    Attributes:
        channels: Width of the coarsest level; each finer one has half.
        levels: Levels; each after the first halves sides.
        blocks: Blocks of the coarsest level on the way up; every other level has one, and one on the way down.
        patch: Pixels of a side that are folded into channels.
        latent_channels: Channels of the latent.
        codebook: Its vectors, of width `latent_channels`.
        quantise: Round what is decoded; the source does so in training alone.
    """

    kind: Literal["convnext_vq"] = "convnext_vq"
    channels: Annotated[int, Field(ge=1)] = 384
    levels: Annotated[int, Field(ge=1)] = 2
    blocks: Annotated[int, Field(ge=1)] = 12
    patch: Annotated[int, Field(ge=1)] = 2
    latent_channels: Annotated[int, Field(ge=1)] = 4
    codebook: CodebookSettings = CodebookSettings(size=8192)
    quantise: bool = False

    @model_validator(mode="after")
    def _check(self) -> ConvNeXtAutoencoder:
        if self.channels % 2 ** (self.levels - 1):
            raise ValueError(
                f"channels = {self.channels} cannot be halved {self.levels - 1} times, once for each of levels = "
                f"{self.levels} but one; change one"
            )
        return self

    @property
    def factor(self) -> int:
        """Pixels of a side for one of the latent's."""
        return int(self.patch * 2 ** (self.levels - 1))

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(latent_channels, H / factor, W / factor).

        Raises:
            UsageError: Not images, or sides that the factor does not divide.
        """
        done = f"folded by {self.patch} and halved {self.levels - 1} times"
        return (self.latent_channels, *grid_of(shape, self.factor, done=done, fewer="network.levels"))

    def build(self, shape: tuple[int, ...], *, seed: int = 0) -> AutoencoderNetwork:
        """Make the autoencoder; see `AutoencoderPart.build`."""
        self.latent_shape(shape)
        with seeded(seed):
            return _ConvNeXtNetwork(self, shape[0])


class GatedBlock(nn.Module):
    """A depthwise convolution, then an MLP on each pixel, (B, C, H, W) -> (B, C, H, W).

    Six learned numbers scale and shift what each of the two sees and scale what it adds. They start at 0, so a fresh
    block is the identity.

    Source: pernias2024wuerstchen, stage A.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, groups=channels)
        self.inner = nn.Linear(channels, 4 * channels)
        self.outer = nn.Linear(4 * channels, channels)
        self.gammas = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the block."""
        scale, shift, gain, scale_2, shift_2, gain_2 = self.gammas.unbind()
        seen = _normalised(x) * (1 + scale) + shift
        x = x + self.depthwise(F.pad(seen.movedim(-1, 1), (1, 1, 1, 1), mode="replicate")) * gain
        seen = _normalised(x) * (1 + scale_2) + shift_2
        added: Tensor = x + self.outer(F.gelu(self.inner(seen))).movedim(-1, 1) * gain_2
        return added


def _normalised(x: Tensor) -> Tensor:
    """Layer norm of each pixel without weights, (B, C, H, W) -> (B, H, W, C)."""
    last = x.movedim(1, -1)
    return F.layer_norm(last, last.shape[-1:], eps=1e-6)


class _ConvNeXtNetwork(AutoencoderNetwork):
    def __init__(self, part: ConvNeXtAutoencoder, channels: int) -> None:
        super().__init__()
        self.quantises = part.quantise
        widths = [part.channels // 2**level for level in reversed(range(part.levels))]
        folded = channels * part.patch**2
        down: list[tuple[str, nn.Module]] = [("fold", nn.PixelUnshuffle(part.patch))]
        down.append(("stem", nn.Conv2d(folded, widths[0], 1)))
        for level, width in enumerate(widths):
            if level:
                down.append((f"down_{level}", nn.Conv2d(widths[level - 1], width, 4, stride=2, padding=1)))
            down.append((f"block_{level}", GatedBlock(width)))
        down.append(("head", nn.Conv2d(widths[-1], part.latent_channels, 1, bias=False)))
        down.append(("norm", nn.BatchNorm2d(part.latent_channels)))
        self.encoder = nn.Sequential(OrderedDict(down))
        self.codebook = Codebook(part.codebook, part.latent_channels)
        up: list[tuple[str, nn.Module]] = [("stem", nn.Conv2d(part.latent_channels, widths[-1], 1))]
        for place, width in enumerate(reversed(widths)):
            if place:
                up.append((f"up_{place}", nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)))
            up += [(f"block_{place}_{j}", GatedBlock(width)) for j in range(1 if place else part.blocks)]
        up.append(("head", nn.Conv2d(widths[0], folded, 1)))
        up.append(("unfold", nn.PixelShuffle(part.patch)))
        self.decoder = nn.Sequential(OrderedDict(up))

    @property
    def last_layer(self) -> Tensor:
        """Weight of the last convolution, before channels are unfolded to pixels."""
        weight = self.decoder.get_submodule("head").weight
        assert isinstance(weight, Tensor)
        return weight

    def moments(self, x: Tensor) -> tuple[Tensor, None]:
        """Latents before they are rounded; they have no variance."""
        z: Tensor = self.encoder((x + 1) / 2)
        return z.contiguous(), None

    def images(self, z: Tensor) -> Tensor:
        """Images of latents as they are."""
        images: Tensor = 2 * self.decoder(z) - 1
        return images.contiguous()
