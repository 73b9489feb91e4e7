"""The variational autoencoder of latent diffusion."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from suffuse.networks.autoencoders.base import AutoencoderNetwork
from suffuse.networks.autoencoders.convolutional import (
    Convolutional,
    channels_last,
    decoder_of,
    encoder_of,
    last_layer_of,
)
from suffuse.networks.part import seeded

__all__ = ["LOG_VARIANCE", "KLAutoencoder"]

LOG_VARIANCE = (-30.0, 20.0)
"""Log-variances beyond these overflow in their exponential or leave no noise at all."""


class KLAutoencoder(Convolutional):
    """Convolutional variational autoencoder: latents with a mean and a variance each.

    Source: rombach2022ldm, Section 3.1 and Appendix G.
    """

    kind: Literal["kl"] = "kl"

    def build(self, shape: tuple[int, ...], *, seed: int = 0) -> AutoencoderNetwork:
        """Make the autoencoder; see `AutoencoderPart.build`."""
        self.latent_shape(shape)
        with seeded(seed):
            return _KLNetwork(self, shape[0])


class _KLNetwork(AutoencoderNetwork):
    """The live network; `encoder` and `decoder` are plain sequences with named layers."""

    def __init__(self, part: KLAutoencoder, channels: int) -> None:
        super().__init__()
        latent = part.latent_channels
        self.encoder = encoder_of(part, channels, 2 * latent)
        self.to_moments = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.from_latent = nn.Conv2d(latent, latent, 1)
        self.decoder = decoder_of(part, latent, channels)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the decoder's last convolution."""
        return last_layer_of(self.decoder)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents."""
        mean, log_variance = self.to_moments(self.encoder(channels_last(x))).chunk(2, dim=1)
        return mean.contiguous(), log_variance.contiguous().clamp(*LOG_VARIANCE)

    def images(self, z: Tensor) -> Tensor:
        """Images of latents."""
        images: Tensor = self.decoder(self.from_latent(channels_last(z)))
        return images.contiguous()
