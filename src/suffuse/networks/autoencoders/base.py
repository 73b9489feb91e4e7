"""What all autoencoders answer: images to latents, latents to images, and what of it an objective has to know."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.networks.autoencoders.codebook import Codebook

__all__ = ["AutoencoderNetwork", "AutoencoderPart", "grid_of"]


class AutoencoderNetwork(nn.Module, abc.ABC):
    """Images to the mean and log-variance of their latents, and latents to images.

    Attributes:
        codebook: Vectors to which latents are rounded; None where latents are free.
        quantises: Whether `decode` rounds latents to the codebook.
    """

    codebook: Codebook | None
    quantises: bool

    def __init__(self) -> None:
        super().__init__()
        self.codebook = None
        self.quantises = False

    def compile(self, *args: Any, **kwargs: Any) -> None:  # Any: as for torch's modules
        """Compile the parts, which are what is called; not the codebook, which keeps count while it is trained."""
        for part in self.children():
            if part is not self.codebook:
                part.compile(*args, **kwargs)

    @property
    @abc.abstractmethod
    def last_layer(self) -> Tensor:
        """Weight of the last layer on the way to images, where an adversary's pull is measured."""

    @abc.abstractmethod
    def moments(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and log-variance of the latents of images: (B, C, H, W) -> twice (B, c, h, w).

        The log-variance is None where latents have no variance. Of an autoencoder with a codebook these are the latents
        before they are rounded, which is where diffusion lives.
        """

    @abc.abstractmethod
    def images(self, z: Tensor) -> Tensor:
        """Images of latents as they are, (B, c, h, w) -> (B, C, H, W)."""

    def decode(self, z: Tensor, *, quantise: bool = True) -> Tensor:
        """Images of latents, (B, c, h, w) -> (B, C, H, W); near [-1, 1], not clipped.

        Args:
            z: Latents.
            quantise: Round them to the codebook first, where there is one and the network is to use it.
        """
        if quantise and self.quantises and self.codebook is not None:
            z = self.codebook(z).value
        return self.images(z)


class AutoencoderPart(Part, abc.ABC):
    """Configuration of an autoencoder; `build` makes the module with its weights.

    Attributes:
        fixed_size: Whether it takes images of no other size than it was built for.
    """

    kind: str
    fixed_size: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def factor(self) -> int:
        """Pixels of a side for one of the latent's; of a vector, for one of the grid that it is made of."""

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


def grid_of(shape: tuple[int, ...], factor: int, *, done: str, fewer: str) -> tuple[int, int]:
    """Sides of images over a factor.

    Args:
        shape: Of an image, (C, H, W).
        factor: Pixels of a side for one of the grid's.
        done: What is done to the sides, for the message.
        fewer: Of what there could be fewer, for the message.

    Raises:
        UsageError: Not images, or sides that the factor does not divide.
    """
    if len(shape) != 3:
        raise UsageError(f"an autoencoder takes images (C, H, W), but the data have shape {shape}; choose images")
    if any(side % factor for side in shape[1:]):
        raise UsageError(
            f"images of {shape[1]}x{shape[2]} cannot be {done}; choose another size, a multiple of {factor}, or fewer "
            f"{fewer}"
        )
    return shape[1] // factor, shape[2] // factor
