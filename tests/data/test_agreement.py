"""The judge of prompts: right drawings agree with their captions, wrong ones in what is wrong alone."""

from __future__ import annotations

import numpy as np
import pytest

from suffuse.base.errors import UsageError
from suffuse.data import Shapes
from suffuse.data.agreement import agreement
from suffuse.data.shapes import render


@pytest.mark.parametrize("objects", [1, 2])
def test_what_was_drawn_from_a_caption_agrees_with_it(objects: int) -> None:
    data = Shapes(size=32, count=300, objects=objects).load()
    assert data.captions is not None
    found = agreement(data.values, data.captions)
    assert found.legible > 0.99
    assert min(found.colour, found.form, found.bound, found.whole) > 0.97


def test_what_is_wrong_is_told_apart() -> None:
    scene = Shapes(size=32, count=60, objects=1).scene()
    pictures = render(scene, 32)
    captions = scene.captions()
    swapped = [text.replace("circle", "x").replace("square", "circle").replace("x", "square") for text in captions]
    found = agreement(pictures, swapped)
    assert found.colour == agreement(pictures, captions).colour
    assert found.form == pytest.approx(np.mean(["triangle" in text for text in captions]), abs=0.02)
    assert found.bound == found.form
    nothing = agreement(np.zeros_like(pictures), captions)
    assert nothing.legible == nothing.whole == 0


def test_colours_and_forms_of_two_objects_are_bound() -> None:
    """Both colours and both forms are there, but exchanged between the objects."""
    scene = Shapes(size=32, count=200, objects=2).scene()
    differ = scene.form[:, 0] != scene.form[:, 1]
    pictures = render(scene, 32)[differ]
    words = [text.split(" ") for text, keep in zip(scene.captions(), differ, strict=True) if keep]
    # "a red circle left of a blue square" -> "a blue circle left of a red square"
    crossed = []
    for word in words:
        other = len(word) - 2
        word[1], word[other] = word[other], word[1]
        crossed.append(" ".join(word))
    found = agreement(pictures, crossed)
    assert found.colour > 0.97
    assert found.form > 0.97
    assert found.bound < 0.03


def test_captions_that_say_nothing_of_shapes_are_refused() -> None:
    pictures = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(UsageError, match="the caption 'a dog' says nothing that shapes can be judged by"):
        agreement(pictures, ["a dog"])
    with pytest.raises(UsageError, match="there are 2 captions for 1 pictures"):
        agreement(pictures, ["a red circle", "a red circle"])
