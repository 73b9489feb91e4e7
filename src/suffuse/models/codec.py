"""Codec: an autoencoder with the numbers that bring its latents to one scale. What latent models live in."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.part import Part
from suffuse.networks import Autoencoder, AutoencoderNetwork, KLAutoencoder

__all__ = ["Codec", "CodecConfig"]


class Codec(nn.Module):
    """Images to standardised latents and back.

    The mean and deviation of the latents are measured on the data that a model is trained on, so they are buffers: a
    codec fresh from training has 0 and 1.

    Args:
        network: The autoencoder.
        latent_channels: Channels of its latents.
    """

    config: CodecConfig | None = None
    shift: Tensor
    scale: Tensor

    def __init__(self, network: AutoencoderNetwork, latent_channels: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("shift", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("scale", torch.ones(latent_channels, 1, 1))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.shift.device

    def encode(self, x: Tensor) -> Tensor:
        """Standardised means of the latents of images in [-1, 1]: (B, C, H, W) -> (B, c, h, w)."""
        return (self.network.moments(x)[0] - self.shift) * self.scale

    def decode(self, z: Tensor) -> Tensor:
        """Images of standardised latents, (B, c, h, w) -> (B, C, H, W); near [-1, 1], not clipped."""
        return self.network.decode(z / self.scale + self.shift)

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor, to: float) -> None:
        """Make `encode` give latents of mean 0 and deviation `to`.

        Args:
            mean: Of each channel as the network gives it, (c,).
            std: Of each channel, (c,), above 0.
            to: The deviation wanted: 0.5 is sigma_data of the EDM path.
        """
        self.shift.copy_(mean.view(-1, 1, 1))
        self.scale.copy_((to / std).view(-1, 1, 1))


class CodecConfig(Part):
    """A codec as plain data; what its `config.json` holds.

    Attributes:
        network: The autoencoder.
        shape: Shape of an image, (C, H, W).
        weights: Name of what `model.safetensors` holds: an EMA's name, or `raw`.
        others: Names of the other averages, in `ema/`.
        step: Training steps behind the weights.
    """

    format_version: int = 1
    kind: Literal["codec"] = "codec"
    network: Autoencoder = KLAutoencoder()
    shape: tuple[int, ...] = Field(min_length=3, max_length=3)
    weights: str = "raw"
    others: tuple[str, ...] = ()
    step: int = Field(default=0, ge=0)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a latent, (c, h, w)."""
        return self.network.latent_shape(self.shape)

    def facts(self) -> dict[str, str]:
        """What stands on the model card, by name."""
        return {"network": self.network.kind, "latents": "x".join(str(n) for n in self.latent_shape)}

    def build(self, *, seed: int = 0) -> Codec:
        """Make the codec with fresh weights; equal seeds give equal weights.

        Raises:
            UsageError: The network does not fit the images.
        """
        codec = Codec(self.network.build(self.shape, seed=seed), self.latent_shape[0])
        codec.config = self
        return codec
