"""The vector-quantised autoencoder of latent diffusion: the quantiser belongs to the decoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from suffuse.networks.autoencoders.base import AutoencoderNetwork
from suffuse.networks.autoencoders.codebook import Codebook, CodebookSettings
from suffuse.networks.autoencoders.convolutional import (
    Convolutional,
    channels_last,
    decoder_of,
    encoder_of,
    last_layer_of,
)
from suffuse.networks.part import seeded

__all__ = ["VQAutoencoder"]


class VQAutoencoder(Convolutional):
    """Convolutional autoencoder whose latents are rounded to a codebook before they are decoded.

    `moments` gives the latents before that, without a variance: there diffusion lives, and what it makes is rounded.

    Source: rombach2022ldm, Section 3.1; esser2021vqgan; vandenoord2017vqvae.

    Attributes:
        codebook: Its vectors, of width `latent_channels`.
        inner_channels: Channels that the encoder gives and the decoder takes; `latent_channels` when None.
        quantise: Round what is decoded. False drops the quantiser after training, as pernias2024wuerstchen does.
    """

    kind: Literal["vq"] = "vq"
    codebook: CodebookSettings = CodebookSettings()
    inner_channels: Annotated[int, Field(ge=1)] | None = None
    quantise: bool = True

    def build(self, shape: tuple[int, ...], *, seed: int = 0) -> AutoencoderNetwork:
        """Make the autoencoder; see `AutoencoderPart.build`."""
        self.latent_shape(shape)
        with seeded(seed):
            return _VQNetwork(self, shape[0])


class _VQNetwork(AutoencoderNetwork):
    def __init__(self, part: VQAutoencoder, channels: int) -> None:
        super().__init__()
        latent, inner = part.latent_channels, part.inner_channels or part.latent_channels
        self.quantises = part.quantise
        self.encoder = encoder_of(part, channels, inner)
        self.to_latent = nn.Conv2d(inner, latent, 1)
        self.codebook = Codebook(part.codebook, latent)
        self.from_latent = nn.Conv2d(latent, inner, 1)
        self.decoder = decoder_of(part, inner, channels)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the decoder's last convolution."""
        return last_layer_of(self.decoder)

    def moments(self, x: Tensor) -> tuple[Tensor, None]:
        """Latents before they are rounded; they have no variance."""
        z: Tensor = self.to_latent(self.encoder(channels_last(x)))
        return z.contiguous(), None

    def images(self, z: Tensor) -> Tensor:
        """Images of latents as they are."""
        images: Tensor = self.decoder(self.from_latent(channels_last(z)))
        return images.contiguous()
