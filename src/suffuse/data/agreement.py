"""Agreement of drawn shapes with their captions: an exact judge of text to image, with nothing learned in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.data.shapes import COLOURS, FORMS, PLACES, read_shapes

__all__ = ["Agreement", "agreement"]

Array = NDArray[Any]  # Any: whole numbers or truth values

_OBJECT = rf"a ({'|'.join(COLOURS)}) ({'|'.join(FORMS)})"
_CAPTION = re.compile(rf"{_OBJECT}(?: ({'|'.join(PLACES)}) {_OBJECT})?")
_MIRROR = (1, 0, 3, 2)  # what "left of" is for the other object


class Agreement(Part):
    """Shares of pictures, in [0, 1], that agree with what their captions say.

    Attributes:
        legible: Shows as many objects as the caption names, and nothing else.
        colour: Has the right colours.
        form: Has the right forms.
        bound: Has the right form in the right colour, for every object.
        whole: All that, legible, and every object where the caption says.
        pictures: How many were read.
    """

    legible: float
    colour: float
    form: float
    bound: float
    whole: float
    pictures: int

    def lines(self) -> tuple[str, ...]:
        """A sentence for people."""
        shares = ("legible", "colour", "form", "bound", "whole")
        words = ", ".join(f"{name} {getattr(self, name):.1%}" for name in shares)
        return (f"prompts met, {self.pictures} pictures: {words}",)


def _said(captions: Sequence[str]) -> tuple[Array, Array, Array]:
    """Colours and forms, (N, K), and the place of the first object, (N,); -1 where none is said."""
    found = [_CAPTION.fullmatch(caption.strip().lower()) for caption in captions]
    if wrong := [captions[place] for place, match in enumerate(found) if match is None]:
        raise UsageError(
            f"the caption {wrong[0]!r} says nothing that shapes can be judged by; write 'a red circle' or 'a red "
            "circle left of a blue square'"
        )
    words = [match.groups() for match in found if match is not None]
    objects = {2 if word[3] else 1 for word in words}
    if len(objects) != 1:
        raise UsageError("some captions name one object and some two; judge them apart")
    many = objects == {2}
    colour = [[COLOURS.index(w[0]), *([COLOURS.index(w[3])] if many else [])] for w in words]
    form = [[FORMS.index(w[1]), *([FORMS.index(w[4])] if many else [])] for w in words]
    place = [PLACES.index(w[2]) if many else -1 for w in words]
    return np.array(colour), np.array(form), np.array(place)


def agreement(images: NDArray[np.uint8], captions: Sequence[str]) -> Agreement:
    """Read pictures of shapes and compare them with their captions.

    Args:
        images: (N, H, H, 3) uint8.
        captions: N of them, as `Shapes` writes them, all with one object or all with two.

    Raises:
        UsageError: Not one caption a picture, or one that is no caption of shapes.
    """
    if len(captions) != len(images):
        raise UsageError(f"there are {len(captions)} captions for {len(images)} pictures; give one for each")
    colour, form, place = _said(captions)
    shown = read_shapes(images, objects=colour.shape[1])
    both = []
    for order in (1, -1) if colour.shape[1] == 2 else (1,):
        right_colour, right_form = shown.colour[:, ::order] == colour, shown.form[:, ::order] == form
        where = shown.place if colour.shape[1] == 2 else place
        where = np.take(_MIRROR, where) if order == -1 else where
        bound = (right_colour & right_form).all(1)
        both.append((right_colour.all(1), right_form.all(1), bound, bound & (where == place) & shown.legible))
    met = [np.stack(parts).any(0).mean() for parts in zip(*both, strict=True)]
    shares = dict(zip(("colour", "form", "bound", "whole"), map(float, met), strict=True))
    return Agreement(legible=float(shown.legible.mean()), pictures=len(images), **shares)
