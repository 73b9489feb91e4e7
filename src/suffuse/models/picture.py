"""Image to image by concatenation: a companion picture of each sample is put beside the noisy sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.models.conditioner import Conditioner
from suffuse.models.readers import BesideConditioner, BesidePart, check_pictures, with_presence

__all__ = ["PICTURE", "Picture"]

PICTURE = "picture"


class _Picture(BesideConditioner):
    def __init__(self, part: Picture, width: int, shape: tuple[int, ...]) -> None:
        super().__init__(part.reader, width)
        self.part, self.shape = part, shape
        self.reads = self.also(PICTURE)

    def check(self, cond: Conditions) -> None:
        """Raise a `UsageError` for pictures of another shape, and for what the reader does not know."""
        super().check(cond)
        if PICTURE in cond.values:
            check_pictures(PICTURE, cond.values[PICTURE], self.part.picture_shape)

    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        """The picture and where there is one, (B, C' + 1, H, W), beside what is read."""
        return replace(self.read(cond, batch, seeds), image=self._image(cond, batch))

    def _image(self, cond: Conditions, batch: int) -> Tensor:
        if PICTURE not in cond.values:
            return torch.zeros(batch, self.part.picture_shape[0] + 1, *self.shape[1:], device=self.place.device)
        pictures, size = cond.values[PICTURE], (self.shape[1], self.shape[2])
        check_pictures(PICTURE, pictures, self.part.picture_shape)
        if pictures.shape[2:] != size:
            nearest = self.part.resize == "nearest"
            pictures = (
                F.interpolate(pictures, size, mode="nearest") if nearest else F.adaptive_avg_pool2d(pictures, size)
            )
        return with_presence(pictures, cond.present[PICTURE])


class Picture(BesidePart):
    """A picture that is aligned with the sample: a map of what is where, a sketch, an image from another instrument.

    It reads `picture`, (B, C', H', W') in [-1, 1], which data give beside each sample: `condition_key` of picture
    folders, `forms` of the procedural shapes. In latents the picture, which has the size of the images, is brought to
    the latents' grid. One channel more says where there is a picture, as in `low_resolution`.

    Source: rombach2022ldm, Section 3.3 (concatenation).

    Attributes:
        reader: Reads labels or captions too; `none` for neither.
        resize: How it is brought to the latents' grid: means of pixels, or the nearest one, for maps whose colours
            stand for things.
        picture_shape: Of the pictures, (C', H', W'), which is filled in from the data.
    """

    kind: Literal["picture"] = "picture"
    resize: Literal["mean", "nearest"] = "mean"
    picture_shape: tuple[int, ...] = Field(default=(3, 64, 64), min_length=3, max_length=3)

    @property
    def companion(self) -> str | None:
        """`picture`."""
        return PICTURE

    def seeing_companion(self, shape: tuple[int, ...]) -> Self:
        """This for pictures of one shape."""
        return self.replace(picture_shape=shape)

    def extra_channels(self, shape: tuple[int, ...]) -> int:
        """The picture's channels and the one that says whether there is a picture."""
        if len(shape) != 3:
            raise UsageError(
                f"conditioner 'picture' needs images (C, H, W), but samples have shape {shape}; use conditioner=none"
            )
        if any(theirs % ours for theirs, ours in zip(self.picture_shape[1:], shape[1:], strict=True)):
            raise UsageError(
                f"conditioner 'picture' has pictures of {self.picture_shape} beside samples of {shape}, whose height "
                "and width do not divide theirs; resize them to the size of the images"
            )
        return self.picture_shape[0] + 1

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """A module whose only weights are its reader's."""
        self.extra_channels(shape)
        return _Picture(self, width, shape)
