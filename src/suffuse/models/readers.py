"""What conditioners share that put a picture beside the noisy sample: a nested reader of labels or captions."""

from __future__ import annotations

import abc
from typing import Annotated, Self

import torch
from torch import Tensor

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.part import Joint
from suffuse.models.conditioner import ClassLabel, Conditioner, ConditionerPart, NoCondition
from suffuse.models.frozen_text import FrozenText
from suffuse.models.text import Text, TextPart
from suffuse.networks.part import seeded

__all__ = ["BesideConditioner", "BesidePart", "Reader", "check_pictures", "with_presence"]

Reader = Annotated[ConditionerPart, Joint("reader", NoCondition, ClassLabel, Text, FrozenText)]
"""Reads labels or captions for a conditioner that itself shows pictures."""


def check_pictures(name: str, values: Tensor, wanted: tuple[int, ...]) -> None:
    """Refuse pictures of another shape, or that are no floats.

    Args:
        name: Of the condition.
        values: (B, ...).
        wanted: Shape of one, (C, H, W).

    Raises:
        UsageError: Names the condition, what came and what is wanted.
    """
    if tuple(values.shape[1:]) != wanted or not values.is_floating_point():
        raise UsageError(
            f"{name} has shape {tuple(values.shape)} and type {values.dtype}, but this model takes {wanted}; give "
            f"floats of shape (B, {', '.join(map(str, wanted))})"
        )


def with_presence(images: Tensor, present: Tensor) -> Tensor:
    """Pictures and a channel more that is 1 where there is one: (B, C, H, W), (B,) bool -> (B, C + 1, H, W).

    Zeros where there is none, so that absence is told apart from a grey picture.
    """
    image = torch.cat([images, torch.ones_like(images[:, :1])], dim=1)
    # Not multiplied by the mask: a value that is masked out may be anything, NaN too.
    return image.where(present[:, None, None, None], torch.zeros_like(image))


class BesideConditioner(Conditioner):
    """Live conditioner with a reader.

    Args:
        reader: The reader's part.
        width: Of the network's condition vectors.
    """

    place: Tensor

    def __init__(self, reader: ConditionerPart, width: int) -> None:
        super().__init__()
        with seeded(0):
            live = reader.build(width)
        self.reader = live if live.reads else None
        # It may have no weights: an empty buffer tells on which device the model is.
        self.register_buffer("place", torch.empty(0), persistent=False)

    def also(self, *names: str) -> tuple[str, ...]:
        """These names of conditions and the reader's."""
        return names if self.reader is None else (*names, *self.reader.reads)

    def check(self, cond: Conditions) -> None:
        """Raise a `UsageError` for what the reader does not know."""
        if self.reader is not None:
            self.reader.check(cond)

    def read(self, cond: Conditions, batch: int, seeds: Tensor | None) -> Embedding:
        """What the reader gives."""
        if self.reader is None:
            return Embedding()
        told: Embedding = self.reader(cond, batch, seeds)
        return told


class BesidePart(ConditionerPart, abc.ABC):
    """Configuration of a conditioner with a reader.

    Attributes:
        reader: Reads labels or captions too; `none` for neither.
    """

    reader: Reader = NoCondition()

    @property
    def label_count(self) -> int:
        """The reader's."""
        return self.reader.label_count

    @property
    def text(self) -> TextPart | None:
        """The reader, if it reads captions."""
        return self.reader.text

    @property
    def token_width(self) -> int:
        """The reader's."""
        return self.reader.token_width

    def reading(self, text: TextPart) -> Self:
        """This with another reader."""
        return self.replace(reader=text)
