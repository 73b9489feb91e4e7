"""Inpainting by concatenation: the part of the picture that is known, and where it is, beside the noisy sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys as keys_of
from suffuse.models.conditioner import Conditioner
from suffuse.models.masks import RandomMasks
from suffuse.models.readers import BesideConditioner, BesidePart, check_pictures

__all__ = ["KNOWN", "MASK", "Inpainting"]

KNOWN, MASK = "known", "mask"


class _Inpainting(BesideConditioner):
    def __init__(self, part: Inpainting, width: int, shape: tuple[int, ...]) -> None:
        super().__init__(part.reader, width)
        self.masks, self.shape = part.masks, shape
        self.reads, self.observes = self.also(KNOWN, MASK), (KNOWN, MASK)

    def check(self, cond: Conditions) -> None:
        """Raise a `UsageError` for one of the two alone, other sizes, or masks of other numbers than 0 and 1."""
        super().check(cond)
        given = [name for name in (KNOWN, MASK) if name in cond.values]
        if len(given) == 1:
            raise UsageError(f"inpainting needs the conditions known and mask, but {given[0]} came alone; give both")
        if given:
            self._check_sizes(cond)
            mask = cond.values[MASK]
            if bool(((mask != 0) & (mask != 1)).any()):
                raise UsageError("mask has numbers beside 0 and 1; give 1 where the picture is known and 0 elsewhere")

    def _check_sizes(self, cond: Conditions) -> None:
        check_pictures(KNOWN, cond.values[KNOWN], self.shape)
        size, (height, width) = tuple(cond.values[MASK].shape[1:]), self.shape[1:]
        if len(size) != 3 or size[0] != 1 or size[1] % height or size[2] % width:
            raise UsageError(
                f"mask has shape {tuple(cond.values[MASK].shape)}, but this model takes (B, 1, {height}, {width}) or "
                "whole multiples of that height and width; bring it to that size"
            )

    def observe(self, x0: Tensor, cond: Conditions, keys: Tensor | None = None) -> Conditions:
        """With the sample itself as `known` and a random `mask`, unless they are there already."""
        if KNOWN in cond.values or MASK in cond.values:
            return cond
        if keys is None:
            keys = keys_of(0, "observed", 0, torch.arange(len(x0), device=x0.device))
        return cond.plus(known=x0, mask=self.masks.draw(keys, *self.shape[1:]).to(x0))

    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        """(mask, known * mask), (B, 1 + C, H, W), beside what is read."""
        return replace(self.read(cond, batch, seeds), image=self._image(cond, batch))

    def _image(self, cond: Conditions, batch: int) -> Tensor:
        if KNOWN not in cond.values or MASK not in cond.values:
            return torch.zeros(batch, self.shape[0] + 1, *self.shape[1:], device=self.place.device)
        self._check_sizes(cond)
        known, mask = cond.values[KNOWN], cond.values[MASK].to(cond.values[KNOWN].dtype)
        if mask.shape[2:] != known.shape[2:]:
            mask = F.interpolate(mask, size=known.shape[2:], mode="nearest")
        present = cond.present[KNOWN] & cond.present[MASK]
        mask = mask.where(present[:, None, None, None], torch.zeros_like(mask))
        # Not a product: what is unknown may be anything, NaN too.
        return torch.cat([mask, known.where(mask > 0, torch.zeros_like(known))], dim=1)


class Inpainting(BesidePart):
    """The mask and what it leaves of the picture are concatenated to the noisy sample along the channels.

    It reads `known`, (B, C, H, W), of which the masked part alone is seen, and `mask`, (B, 1, H, W), 1 where the
    picture is known; a larger mask is brought to the sample's grid by its nearest pixels. In training both are made of
    the data, with a random mask that is a function of the sample's key. No condition is a mask of zeros: with nothing
    known, an inpainting model draws whole samples. `tasks.inpaint` fills the holes of pictures.

    Source: rombach2022ldm, Section 3.3 (concatenation) and Section 4.5 (inpainting).
    Deviation: in latents rombach2022ldm encodes the masked picture; in training, `known` here is the latent of the
    whole picture times the mask, because latents are computed once. At a hole's edge such a latent knows a little of
    what is hidden, as far as the encoder looks.

    Attributes:
        reader: Reads labels or captions too; `none` for neither.
        masks: Of the samples in training.
    """

    kind: Literal["inpainting"] = "inpainting"
    masks: RandomMasks = RandomMasks()

    def extra_channels(self, shape: tuple[int, ...]) -> int:
        """The mask and the data's channels."""
        if len(shape) != 3:
            raise UsageError(
                f"conditioner 'inpainting' needs images (C, H, W), but samples have shape {shape}; use conditioner=none"
            )
        return 1 + shape[0]

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """A module whose only weights are its reader's."""
        self.extra_channels(shape)
        return _Inpainting(self, width, shape)
