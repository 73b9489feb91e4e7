"""Codec: an autoencoder with the numbers that bring its latents to one scale. What latent models live in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.part import Part
from suffuse.networks import Autoencoder, AutoencoderNetwork, KLAutoencoder

__all__ = ["Codec", "CodecConfig"]

_PIXELS = 2**20  # that go through at a time without gradients: some 3 GB at latent diffusion's widths


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

    @classmethod
    def from_pretrained(cls, name: str | Path, *, weights: str | None = None) -> Codec:
        """Load the run of an autoencoder from its folder or from the Hub; errors as `pretrained.load_codec`."""
        from suffuse.models.pretrained import load_codec

        return load_codec(name, weights=weights)

    def encode(self, x: Tensor) -> Tensor:
        """Standardised means of the latents of images in [-1, 1]: (B, C, H, W) -> (B, c, h, w).

        Without gradients many images go through in parts, so that memory does not grow with B.
        """
        means = _in_parts(lambda part: self.network.moments(part)[0], x, x.shape[-2] * x.shape[-1])
        return (means - self.shift) * self.scale

    def decode(self, z: Tensor) -> Tensor:
        """Images of standardised latents, (B, c, h, w) -> (B, C, H, W); near [-1, 1], not clipped.

        In parts like `encode`.
        """
        return _in_parts(self.network.decode, self.raw(z), self._pixels(z))

    def raw(self, z: Tensor) -> Tensor:
        """Latents as the network gives them, of standardised ones: (B, c, h, w)."""
        return z / self.scale + self.shift

    def _pixels(self, z: Tensor) -> int:
        """Pixels of the image of a latent."""
        if self.config is None:
            return z.shape[-2] * z.shape[-1]
        if self.config.network.fixed_size:
            return self.config.shape[1] * self.config.shape[2]
        return int(z.shape[-2] * z.shape[-1] * self.config.network.factor**2)

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


def _in_parts(work: Callable[[Tensor], Tensor], x: Tensor, pixels: int) -> Tensor:
    """Some samples at a time where no gradients are wanted.

    Args:
        work: Of a batch.
        x: The whole batch, (B, ...).
        pixels: Of an image, which says how many fit.
    """
    part = max(1, _PIXELS // pixels)
    if torch.is_grad_enabled() or len(x) <= part:
        return work(x)
    return torch.cat([work(some) for some in torch.split(x, part)])


class CodecConfig(Part):
    """A codec as plain data; what its `config.json` holds.

    Attributes:
        network: The autoencoder.
        shape: Shape of an image, (C, H, W).
        decoder: Folder, within the codec's own, of the denoiser that decodes; None for a codec that does it itself.
        weights: Name of what `model.safetensors` holds: an EMA's name, or `raw`.
        others: Names of the other averages, in `ema/`.
        step: Training steps behind the weights.
    """

    format_version: int = 1
    kind: Literal["codec"] = "codec"
    network: Autoencoder = KLAutoencoder()
    shape: tuple[int, ...] = Field(min_length=3, max_length=3)
    decoder: str | None = None
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
