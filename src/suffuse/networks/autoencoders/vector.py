"""An autoencoder whose latent is a vector: the first stage of DiffuseVAE."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from suffuse.networks.autoencoders.base import AutoencoderNetwork
from suffuse.networks.autoencoders.convolutional import (
    Convolutional,
    channels_last,
    decoder_of,
    encoder_of,
    last_layer_of,
)
from suffuse.networks.autoencoders.kl import LOG_VARIANCE
from suffuse.networks.part import seeded

__all__ = ["VectorVAE"]


class VectorVAE(Convolutional):
    """Variational autoencoder to a vector of `latent_channels` numbers, a latent of shape (latent_channels, 1, 1).

    It takes images of the size that it was built for alone.

    Source: pandey2022diffusevae, stage 1.
    Deviation: encoder and decoder are those of latent diffusion, not the source's bottlenecks with GELU, and images are
    not squashed by a sigmoid.
    """

    kind: Literal["vector"] = "vector"
    fixed_size: ClassVar[bool] = True

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(latent_channels, 1, 1); raises as `grid`."""
        self.grid(shape)
        return (self.latent_channels, 1, 1)

    def build(self, shape: tuple[int, ...], *, seed: int = 0) -> AutoencoderNetwork:
        """Make the autoencoder; see `AutoencoderPart.build`."""
        grid = self.grid(shape)
        with seeded(seed):
            return _VectorNetwork(self, shape[0], grid)


class _VectorNetwork(AutoencoderNetwork):
    def __init__(self, part: VectorVAE, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (part.width, *grid)
        numbers = part.width * grid[0] * grid[1]
        self.encoder = encoder_of(part, channels, part.width)
        self.to_moments = nn.Linear(numbers, 2 * part.latent_channels)
        self.from_latent = nn.Linear(part.latent_channels, numbers)
        self.decoder = decoder_of(part, part.width, channels)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the decoder's last convolution."""
        return last_layer_of(self.decoder)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, (B, d, 1, 1) each."""
        mean, log_variance = self.to_moments(self.encoder(channels_last(x)).flatten(1)).chunk(2, dim=1)
        return mean[..., None, None], log_variance[..., None, None].clamp(*LOG_VARIANCE)

    def images(self, z: Tensor) -> Tensor:
        """Images of latents."""
        grid = self.from_latent(z.flatten(1)).unflatten(1, self.shape)
        images: Tensor = self.decoder(channels_last(grid))
        return images.contiguous()
