"""Perceptual distances: how far two images are apart in the features of a network.

Source: zhang2018lpips.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import Joint, Part
from suffuse.networks.part import seeded

__all__ = ["LPIPS", "Distance", "FeatureDistance", "Features", "Perceptual", "PerceptualPart"]

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two sets of images, (B, C, H, W) in [-1, 1], to their distances, (B,)."""


class Features(Protocol):
    """A feature network that a run hands to its objective."""

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of images (B, C, H, W) in [-1, 1], a level each, (B, c, h, w); gradients reach the images."""
        ...


class PerceptualPart(Part, abc.ABC):
    """A perceptual distance as plain data.

    Attributes:
        needs_features: Whether the run has to hand in a network trained on its data.
        weight: Factor on the distance.
    """

    kind: str
    needs_features: ClassVar[bool] = False
    weight: float = Field(default=1.0, gt=0)

    @abc.abstractmethod
    def build(self, features: Features | None, device: torch.device) -> Distance:
        """Make the distance.

        Args:
            features: What the run hands in.
            device: Where images are.

        Raises:
            UsageError: What it needs is not there.
        """


class FeatureDistance(PerceptualPart):
    """In the features of a small network trained on the same data, which is made when it is first needed.

    Squared differences of features of unit length, averaged over places and summed over levels: LPIPS without learned
    weights. It compares models of one data set; its numbers are not LPIPS.

    Source: zhang2018lpips, Eq. 1 with all weights 1.

    Attributes:
        seed: Of that network.
    """

    kind: Literal["features"] = "features"
    needs_features: ClassVar[bool] = True
    seed: int = 0

    def build(self, features: Features | None, device: torch.device) -> Distance:
        """Make the distance; see `PerceptualPart.build`."""
        if features is None:
            raise UsageError(
                "objective.perceptual 'features' needs a network trained on the data, and none was handed in; train by "
                "a recipe, or give build(model, features=...)"
            )

        def distance(one: Tensor, other: Tensor) -> Tensor:
            levels = zip(features.maps(one), features.maps(other), strict=True)
            return torch.stack([_unit_difference(a.float(), b.float()) for a, b in levels]).sum(0)

        return distance


def _unit_difference(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances of unit features, averaged over places: (B, c, h, w) twice -> (B,)."""
    one, other = (maps / (maps.square().sum(1, keepdim=True) + 1e-10).sqrt() for maps in (one, other))
    return (one - other).square().sum(1).flatten(1).mean(1)


# Weights of torchvision's networks, which LPIPS is learned on: where they are kept once they were fetched.
_BACKBONES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


class LPIPS(PerceptualPart):
    """The learned distance, by the package `lpips` with its weights; nothing is fetched here.

    Source: zhang2018lpips.

    Attributes:
        network: On which it is learned; the sources of latent diffusion use `vgg`.
    """

    kind: Literal["lpips"] = "lpips"
    network: Literal["vgg", "alex", "squeeze"] = "vgg"

    def build(self, features: Features | None, device: torch.device) -> Distance:
        """Make the distance; see `PerceptualPart.build`."""
        try:
            import lpips
        except ImportError as error:
            raise UsageError(
                "objective.perceptual 'lpips' needs the package lpips; install suffuse[lpips], or use kind: features"
            ) from error
        weights = Path(torch.hub.get_dir()) / "checkpoints" / _BACKBONES[self.network]
        if not weights.is_file():
            raise UsageError(
                f"objective.perceptual 'lpips' needs the weights of {self.network}, and {weights} is missing; fetch "
                f"them once with python -c \"import lpips; lpips.LPIPS(net='{self.network}')\", or use kind: features"
            )
        with seeded(0):  # its layers are initialised before they are filled
            network = lpips.LPIPS(net=self.network, verbose=False).to(device).eval().requires_grad_(False)

        def distance(one: Tensor, other: Tensor) -> Tensor:
            coloured = (images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images for images in (one, other))
            found: Tensor = network(*coloured)
            return found.flatten()

        return distance


Perceptual = Annotated[PerceptualPart, Joint("perceptual", FeatureDistance, LPIPS)]
