"""Super-resolution by concatenation: the image is seen small, enlarged and put beside the noisy sample."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.models.conditioner import ClassLabel, Conditioner, ConditionerPart

__all__ = ["LowResolution", "downsampled"]

_NAME = "low_res"


def downsampled(x: Tensor, factor: int) -> Tensor:
    """Mean over blocks of factor x factor pixels: (B, C, H, W) -> (B, C, H/factor, W/factor).

    Raises:
        UsageError: A side is not divisible by `factor`.
    """
    _check_sides(tuple(x.shape[1:]), factor)
    return F.avg_pool2d(x, factor)


def _check_sides(shape: tuple[int, ...], factor: int) -> None:
    if len(shape) != 3:
        raise UsageError(
            f"conditioner 'low_resolution' needs images (C, H, W), but samples have shape {shape}; use conditioner=none"
        )
    if shape[1] % factor or shape[2] % factor:
        raise UsageError(
            f"the image is {shape[1]} x {shape[2]}, which conditioner.factor {factor} does not divide; resize the data "
            f"or choose a factor that divides both sides"
        )


class _LowResolution(Conditioner):
    place: Tensor

    def __init__(self, part: LowResolution, width: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        _check_sides(shape, part.factor)
        self.factor, self.shape = part.factor, shape
        self.labels = ClassLabel(classes=part.classes).build(width) if part.classes else None
        self.reads = (_NAME,) if self.labels is None else (_NAME, *self.labels.reads)
        self.observes = (_NAME,)
        # It may have no weights: an empty buffer tells on which device the model is.
        self.register_buffer("place", torch.empty(0), persistent=False)

    def check(self, cond: Conditions) -> None:
        """Raise a `UsageError` for images of another size, or labels that the model does not know."""
        if _NAME in cond.values:
            self._check_size(cond.values[_NAME])
        if self.labels is not None:
            self.labels.check(cond)

    def _check_size(self, images: Tensor) -> None:
        channels, height, width = self.shape
        wanted = (channels, height // self.factor, width // self.factor)
        if tuple(images.shape[1:]) != wanted or not images.is_floating_point():
            raise UsageError(
                f"low_res has shape {tuple(images.shape)} and type {images.dtype}, but this model enlarges {wanted} by "
                f"{self.factor} to {self.shape}; give floats in [-1, 1] of shape (B, {', '.join(map(str, wanted))})"
            )

    def observe(self, x0: Tensor, cond: Conditions) -> Conditions:
        """With `low_res` made from the data, unless there is one already."""
        return cond if _NAME in cond.values else cond.plus(low_res=downsampled(x0, self.factor))

    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        vector = None if self.labels is None else self.labels(cond, batch).vector
        return Embedding(vector=vector, image=self._image(cond, batch))

    def _image(self, cond: Conditions, batch: int) -> Tensor:
        """The enlarged image and where there is one, (B, C + 1, H, W); zeros for samples without."""
        channels, height, width = self.shape
        if _NAME not in cond.values:
            return torch.zeros(batch, channels + 1, height, width, device=self.place.device)
        images = cond.values[_NAME]
        self._check_size(images)
        # Without aligned corners a small pixel's centre is that of the block it is the mean of.
        large = F.interpolate(images, scale_factor=self.factor, mode="bilinear", align_corners=False)
        image = torch.cat([large, torch.ones_like(large[:, :1])], dim=1)
        # Not multiplied by the mask: a value that is masked out may be anything, NaN too.
        return image.where(cond.present[_NAME][:, None, None, None], torch.zeros_like(image))


class LowResolution(ConditionerPart):
    """The image itself at 1 / factor of its size: enlarged and concatenated to the noisy sample along the channels.

    It reads `low_res`, (B, C, H/factor, W/factor) in [-1, 1]. In training it is made from the data: the mean of every
    block of pixels. One channel more is 1 where a sample has a `low_res` and 0 where it has none; the image alone could
    not say so, because zeros are a grey image.

    Source: saharia2021sr3, Section 2 (concatenation); dhariwal2021adm, Section 5.2 (bilinear).
    Deviation: saharia2021sr3 shrinks and enlarges with cubic kernels. Here what is seen is a plain mean, so that it can
    be told exactly whether a sample agrees with it.

    Attributes:
        factor: Side of the image over that of `low_res`; 4 as in saharia2021sr3's 64 to 256.
        classes: Number of classes, K, of a model that is told the `label` too, as by `class_label`; 0 without.
    """

    kind: Literal["low_resolution"] = "low_resolution"
    factor: int = Field(default=4, ge=2)
    classes: int = Field(default=0, ge=0)

    @property
    def label_count(self) -> int:
        """K."""
        return self.classes

    def extra_channels(self, shape: tuple[int, ...]) -> int:
        """The data's channels and the one that says whether there is an image."""
        _check_sides(shape, self.factor)
        return shape[0] + 1

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """A module that has weights, a table (K + 1, width), only if there are classes."""
        return _LowResolution(self, width, shape)
