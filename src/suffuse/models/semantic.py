"""Semantic code: a denoiser of fine latents is told what the image is by a small code, beside its text."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.randomness import derived, keep_mask
from suffuse.models.conditioner import Conditioner
from suffuse.models.readers import BesideConditioner, BesidePart
from suffuse.networks.autoencoders import Compressor
from suffuse.process.corruption import Corruption

__all__ = ["CODE", "IMAGE", "Semantic"]

IMAGE, CODE = "image", "code"


class _Semantic(BesideConditioner):
    def __init__(self, part: Semantic, width: int) -> None:
        super().__init__(part.reader, width)
        self.part = part
        self.compressor = part.compressor.build(part.image_shape, seed=part.compressor.latent_channels)
        self.reads = self.also(IMAGE, CODE)
        self.code_shape = part.compressor.latent_shape(part.image_shape)

    def check(self, cond: Conditions) -> None:
        """Raise a `UsageError` for codes or images of another shape, and for what the text does not know."""
        for name, wanted in ((CODE, self.code_shape), (IMAGE, self.part.image_shape)):
            # Images of other sizes, and their codes, are no mistake: convolutions take them.
            if name in cond.values and (cond.values[name].ndim != 4 or cond.values[name].shape[1] != wanted[0]):
                raise UsageError(
                    f"condition {name!r} has shape {tuple(cond.values[name].shape[1:])}, but this model takes "
                    f"{wanted}, or other sides of {wanted[0]} channels"
                )
        super().check(cond)

    def encode(self, images: Tensor) -> Tensor:
        """The code of images in [-1, 1], (B, C, H, W) -> (B, c, h, w)."""
        return self.compressor.moments(images)[0]

    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        """The code as a map, zeros where there is none, beside the text's tokens."""
        return replace(self.read(self._told(cond, batch, seeds), batch, seeds), map=self._code(cond, batch, seeds))

    def _told(self, cond: Conditions, batch: int, seeds: Tensor | None) -> Conditions:
        """What the reader reads: in training nothing for some samples, whatever their codes are."""
        if seeds is None or not self.training or self.reader is None:
            return cond
        return cond.drop(~keep_mask(derived(seeds, "text dropout"), (), self.part.text_dropout))

    def _code(self, cond: Conditions, batch: int, seeds: Tensor | None) -> Tensor:
        if CODE in cond.values:
            code, present = cond.values[CODE], cond.present[CODE]
        elif IMAGE in cond.values:
            code, present = self.encode(cond.values[IMAGE]), cond.present[IMAGE]
        else:
            return torch.zeros(batch, *self.code_shape, device=self.place.device)
        if seeds is not None and self.training:
            code, _ = self.part.corruption.of(code, seeds)
        return code.where(present[:, None, None, None], torch.zeros_like(code))


class Semantic(BesidePart):
    """A code of the image by a compressor that is trained along, and text.

    It reads `image` in training (the picture behind the latent that is denoised) or a `code` in sampling. Codes are
    corrupted in training; absent ones are zeros.

    Source: pernias2024wuerstchen, Section 3 (stage B), and its code, where text and code are left out independently,
    so that either can guide alone.

    Attributes:
        compressor: Encodes images.
        corruption: Of codes in training; of unit variance, which a compressor without `affine` gives.
        text_dropout: Share of the samples in training whose text (or label) alone is hidden; the objective's
            `condition_dropout` hides the code with it.
        reader: How captions are read; `none` for no text.
        image_shape: Of the pictures, (C, H, W), which is filled in.
    """

    kind: Literal["semantic"] = "semantic"
    compressor: Compressor = Compressor()
    corruption: Corruption = Corruption()
    text_dropout: float = Field(default=0.05, ge=0, lt=1)
    image_shape: tuple[int, ...] = Field(default=(3, 64, 64), min_length=3, max_length=3)

    @property
    def map_channels(self) -> int:
        """Of the code."""
        return self.compressor.latent_channels

    @property
    def draws(self) -> bool:
        """What is corrupted and hidden."""
        return self.corruption.drop > 0 or self.corruption.noise > 0 or self.text_dropout > 0

    @property
    def sees_images(self) -> bool:
        """The pictures behind the latents."""
        return True

    def seeing(self, shape: tuple[int, ...]) -> Self:
        """This for pictures of one shape; a compressor that cannot encode them is refused."""
        self.compressor.latent_shape(shape)
        return self.replace(image_shape=shape)

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """Compressor and reader; equal configurations have equal weights."""
        return _Semantic(self, width)
