"""Feature spaces, in which distances between images are taken; numbers carry the name and the hash of theirs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suffuse.base.errors import RunError, UsageError
from suffuse.base.files import sha256

__all__ = ["FeatureExtractor", "Inception", "Pixels", "extract"]


class FeatureExtractor(Protocol):
    """Images to features.

    Attributes:
        name: What numbers in this space are called after, such as "pixels".
        hash: Of all that decides its values, in hexadecimal digits.
        width: D.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (described above)

    @property
    def hash(self) -> str: ...  # noqa: D102

    @property
    def width(self) -> int: ...  # noqa: D102

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, D)."""


def extract(extractor: FeatureExtractor, batches: Iterable[Tensor]) -> NDArray[np.float32]:
    """Features of a stream of images, which are not kept.

    Args:
        extractor: The feature space.
        batches: Images, (B, C, H, W) in [-1, 1] each.

    Returns:
        (N, D) float32.

    Raises:
        UsageError: No images.
    """
    with torch.no_grad():
        parts = [extractor(images).float().cpu().numpy() for images in batches]
    if not parts:
        raise UsageError(f"there are no images to take {extractor.name} features of; give at least one batch")
    features: NDArray[np.float32] = np.concatenate(parts)
    return features


class Pixels:
    """The pixels themselves, flattened.

    Args:
        shape: Of an image, (C, H, W).
    """

    name = "pixels"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.width = math.prod(shape)
        self.hash = hashlib.sha256(f"pixels {shape}".encode()).hexdigest()

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * H * W).

        Raises:
            UsageError: Images of another shape.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise UsageError(f"images have shape {tuple(images.shape[1:])}, not {self.shape}; resize them")
        return images.flatten(1)


class Inception:
    """The 2048 pooled features of Inception v3 as torchvision ships it, read from the user's own weights file.

    These are not the weights that define FID, and the resize is another; so the name says where they come from, and
    numbers in this space are not comparable with published FID. Nothing is downloaded.

    Args:
        weights: The weights file; torchvision's own name in torch's cache of downloads when None.
        device: Where it runs.

    Source: szegedy2016rethinking.

    Raises:
        UsageError: torchvision or the weights file is missing.
        RunError: The file does not hold this network's weights.
    """

    file = "inception_v3_google-0cc3c7bd.pth"
    width = 2048
    side = 299

    def __init__(self, weights: Path | None = None, *, device: torch.device | str = "cpu") -> None:
        try:
            from torchvision.models.inception import Inception3
        except ImportError:
            raise UsageError(
                "Inception features need torchvision, which is not installed; pip install 'suffuse[inception]', or "
                "take the features of a network trained on the data"
            ) from None
        path = weights or Path(torch.hub.get_dir()) / "checkpoints" / self.file
        if not path.is_file():
            raise UsageError(
                f"the Inception weights {path} are not there and are never downloaded silently; put torchvision's "
                f"{self.file} at that place, or take the features of a network trained on the data"
            )
        self.device = torch.device(device)
        self.hash = sha256(path)
        self.name = f"fid_torchvision_inception_{self.hash[:8]}"
        with torch.device("meta"):  # no values to draw from the global generator, only to be replaced
            network = Inception3(transform_input=False, init_weights=False)
        try:
            # The file is a pickle of torchvision's; only plain tensors are let out of it.
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
        except Exception as error:  # there is no closed list of what a torn or foreign file raises
            raise RunError(f"{path} does not hold torchvision's Inception v3 ({error}); fetch it anew") from error
        network.fc = nn.Identity()
        self._network = network.eval().requires_grad_(False).to(self.device)

    def to(self, device: torch.device | str) -> Self:
        """Move it, in place, as torch's modules do."""
        self.device = torch.device(device)
        self._network.to(self.device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) in [-1, 1] -> (B, 2048); bilinear with antialiasing to 299 x 299.

        Raises:
            UsageError: Images with another number of channels.
        """
        if images.shape[1] not in (1, 3):
            raise UsageError(f"images have {images.shape[1]} channels; Inception takes grey (1) or RGB (3)")
        colour = images.to(self.device).float().expand(-1, 3, -1, -1)
        sized = nn.functional.interpolate(colour, (self.side, self.side), mode="bilinear", antialias=True)
        features: Tensor = self._network(sized)
        return features
