"""Compressors: encoders of images into small semantic codes, whose decoder is a diffusion model."""

from __future__ import annotations

import math
from collections import OrderedDict
from types import ModuleType
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.networks.autoencoders.base import AutoencoderNetwork, AutoencoderPart
from suffuse.networks.part import seeded

__all__ = ["Compressor", "CompressorNetwork"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]
_NO_DECODER = (
    "a compressor's code has no decoder but the denoiser that was trained under it; sample that one, told the code"
)
_NO_ENCODER = (
    "the compressor of this model is absent: released Wuerstchen folders hold none, so no image can be encoded. The "
    "run samples, but neither stage can be trained further; train stage B with a compressor of its own"
)


class Compressor(AutoencoderPart):
    """Images to a code: strided convolutions, or EfficientNetV2-S, then a 1x1 convolution and a batch norm.

    It is trained through the loss of the denoiser that is told the code (a conditioner there), and then is a frozen
    codec, which only that denoiser can decode.

    Source: pernias2024wuerstchen, Section 3; the batch norm without scale and shift as in its successor Stable Cascade,
    so that codes have unit variance.

    Attributes:
        backbone: `conv`, trained from scratch; `efficientnet_v2_s`, whose training starts from ImageNet weights and
            which needs torchvision and images of three channels; or `absent`, which has the latter's codes but no
            weights and encodes nothing: what is left where only the denoiser was released.
        widths: Channels of the `conv` backbone; each layer halves the sides.
        latent_channels: Channels of the code.
        size: Side to which square images are brought first (768 for 1024 in the source), others to as many pixels;
            None leaves them.
        affine: Whether the batch norm has a learned scale and shift, as in the source.
    """

    kind: Literal["compressor"] = "compressor"
    backbone: Literal["conv", "efficientnet_v2_s", "absent"] = "conv"
    widths: Annotated[tuple[int, ...], Field(min_length=1)] = (32, 64, 128, 128)
    latent_channels: Annotated[int, Field(ge=1)] = 16
    size: Annotated[int, Field(ge=1)] | None = None
    affine: bool = False

    @property
    def _stride(self) -> int:
        return int(2 ** len(self.widths)) if self.backbone == "conv" else 32

    @property
    def factor(self) -> int:
        """Pixels of a side for one of the code's, at the size that is encoded."""
        return self._stride

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(latent_channels, H / factor, W / factor) of the size that is encoded.

        Raises:
            UsageError: Not images, or sides that the factor does not divide.
        """
        if len(shape) != 3:
            raise UsageError(f"a compressor takes images (C, H, W), but the data have shape {shape}; choose images")
        if self.backbone == "efficientnet_v2_s" and shape[0] != 3:
            raise UsageError(f"compressor.backbone efficientnet_v2_s takes 3 channels, not {shape[0]}; use conv")
        sides = self.encoded(shape[1], shape[2])
        if any(side % self._stride for side in sides):
            raise UsageError(
                f"images of {sides[0]}x{sides[1]} cannot be made {self._stride} times smaller by the compressor; "
                f"choose another compressor.size, a multiple of {self._stride}, or fewer compressor.widths"
            )
        return (self.latent_channels, sides[0] // self._stride, sides[1] // self._stride)

    def encoded(self, height: int, width: int) -> tuple[int, int]:
        """Sides at which an image of these is encoded: `size` for a square, as many pixels in its proportions else."""
        if self.size is None or height == width:
            return (self.size or height, self.size or width)
        share = self.size / math.sqrt(height * width) / self._stride
        return (max(1, round(share * height)) * self._stride, max(1, round(share * width)) * self._stride)

    def build(self, shape: tuple[int, ...], *, seed: int = 0) -> AutoencoderNetwork:
        """Make the encoder for images of one shape, (C, H, W); equal seeds give equal weights.

        Raises:
            UsageError: Images of `shape` cannot be encoded, or torchvision is not installed.
        """
        self.latent_shape(shape)
        if self.backbone == "absent":
            return _Absent()
        with seeded(seed):
            return CompressorNetwork(self, shape[0])


class CompressorNetwork(AutoencoderNetwork):
    """The live encoder; it has no decoder."""

    def __init__(self, part: Compressor, channels: int) -> None:
        super().__init__()
        self.part, self.backbone = part, part.backbone
        self.encoder = _convolutions(part.widths, channels) if part.backbone == "conv" else _efficientnet()
        width = part.widths[-1] if part.backbone == "conv" else 1280
        self.head = nn.Conv2d(width, part.latent_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(part.latent_channels, affine=part.affine)
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    mean: Tensor
    std: Tensor

    @property
    def last_layer(self) -> Tensor:
        """There is none on the way to images: the head's."""
        return self.head.weight

    def start(self) -> str | None:
        """Give a fresh backbone the weights that it starts from; a sentence about them, None where there are none.

        Raises:
            UsageError: They are neither here nor can they be fetched.
        """
        if self.backbone == "conv":
            return None
        try:
            found = _torchvision().efficientnet_v2_s(weights="DEFAULT").features
        except (OSError, RuntimeError) as error:  # no network, no space, or a file whose hash is wrong
            raise UsageError(
                f"the ImageNet weights of efficientnet_v2_s could not be fetched ({error}); put torchvision's file "
                "into the folder checkpoints of TORCH_HOME (~/.cache/torch/hub), or use compressor.backbone=conv"
            ) from None
        self.encoder.load_state_dict(found.state_dict())
        return "the compressor starts from torchvision's ImageNet weights of efficientnet_v2_s"

    def moments(self, x: Tensor) -> tuple[Tensor, None]:
        """The code of images in [-1, 1], (B, C, H, W) -> (B, c, h, w), which has no variance."""
        sides = self.part.encoded(x.shape[2], x.shape[3])
        if tuple(x.shape[2:]) != sides:
            x = F.interpolate(x, sides, mode="bicubic", antialias=True)
        if self.backbone != "conv":
            x = ((x + 1) / 2 - self.mean) / self.std
        code: Tensor = self.norm(self.head(self.encoder(x)).float())
        return code, None

    def images(self, z: Tensor) -> Tensor:
        """There is none.

        Raises:
            UsageError: Always.
        """
        raise UsageError(_NO_DECODER)


class _Absent(AutoencoderNetwork):
    """No encoder, no weights."""

    @property
    def last_layer(self) -> Tensor:
        raise UsageError(_NO_ENCODER)

    def moments(self, x: Tensor) -> tuple[Tensor, None]:
        raise UsageError(_NO_ENCODER)

    def images(self, z: Tensor) -> Tensor:
        raise UsageError(_NO_DECODER)


def _convolutions(widths: tuple[int, ...], channels: int) -> nn.Module:
    layers: list[tuple[str, nn.Module]] = []
    for place, width in enumerate(widths):
        layers.append((f"conv_{place}", nn.Conv2d(channels, width, 4, stride=2, padding=1)))
        layers.append((f"norm_{place}", nn.GroupNorm(1, width)))
        layers.append((f"act_{place}", nn.SiLU()))
        channels = width
    return nn.Sequential(OrderedDict(layers))


def _efficientnet() -> nn.Module:
    features: nn.Module = _torchvision().efficientnet_v2_s(weights=None).features
    return features


def _torchvision() -> ModuleType:
    try:
        from torchvision import models
    except ImportError:
        raise UsageError(
            "compressor.backbone efficientnet_v2_s needs torchvision; pip install 'suffuse[inception]', or use conv"
        ) from None
    found: ModuleType = models
    return found
