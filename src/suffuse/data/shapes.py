"""Procedural coloured shapes with labels and captions, and the exact judge that reads them back from pixels.

What a model was told can be compared with what it drew, without a learned judge: `read_shapes(images).says(captions)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys, uniform
from suffuse.data.companion import Companion
from suffuse.data.dataset import Dataset
from suffuse.data.part import DataPart

__all__ = ["COLOURS", "FORMS", "PLACES", "Scene", "Shapes", "form_map", "read_shapes", "render"]

Array = NDArray[Any]  # Any: whole numbers, floats or truth values

FORMS = ("circle", "square", "triangle")
COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan")
PLACES = ("left of", "right of", "above", "below")
CLASSES = tuple(f"{colour} {form}" for form in FORMS for colour in COLOURS)

_RGB = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)], np.float32)
# All forms have the area pi radius**2, so that the judge knows the radius before it knows the form.
_HALF_SIDE = np.sqrt(np.pi) / 2
_INRADIUS = np.sqrt(np.pi / (3 * np.sqrt(3)))
_EXTENT = 2 * _INRADIUS  # the triangle's apex is the farthest point of any form, in radii
_RADII = {1: (0.15, 0.28), 2: (0.10, 0.14)}  # as shares of the picture, by number of objects
_LEAST_SIZE = {1: 8, 2: 16}
_AT_ONCE = 1 << 21  # pixels worked on together, so that memory does not grow with the number of pictures

# A drawing is legible when at most this share of an object differs from a perfect one, and at most that share of all
# colour belongs to no object. Perfect drawings differ by up to 0.23 at 8 pixels (rounding) and 0.02 at 32.
_MOST_MISFIT = 0.3
_MOST_STRAY = 0.1


@dataclass(frozen=True, eq=False)
class Scene:
    """What N pictures of K objects show.

    Attributes:
        form: Index into `FORMS`, (N, K) int64.
        colour: Index into `COLOURS`, (N, K) int64.
        x: Centres as shares of the width, from the left, (N, K).
        y: Centres as shares of the height, from the top, (N, K).
        radius: Of the circle of equal area, as a share of the size, (N, K).
        legible: Whether the picture shows K such objects and nothing else, (N,) bool.
    """

    form: Array
    colour: Array
    x: Array
    y: Array
    radius: Array
    legible: Array

    def __len__(self) -> int:
        return len(self.form)

    @property
    def label(self) -> Array:
        """Class of the first object, an index into its form x colour table, (N,) int64."""
        return self.form[:, 0] * len(COLOURS) + self.colour[:, 0]

    @property
    def place(self) -> Array:
        """Where the first object is, seen from the second: index into `PLACES`, (N,) int64."""
        dx, dy = self.x[:, 0] - self.x[:, 1], self.y[:, 0] - self.y[:, 1]
        beside = np.abs(dx) > np.abs(dy)
        return np.where(beside, np.where(dx < 0, 0, 1), np.where(dy < 0, 2, 3))

    def reversed(self) -> Scene:
        """The same pictures with the objects named in the other order."""
        return self._taking(np.arange(self.form.shape[1])[None, ::-1])

    def _taking(self, order: Array) -> Scene:
        """The same pictures with their objects in another order, (N or 1, K) of object numbers."""

        def take(part: Array) -> Array:
            return np.take_along_axis(part, np.broadcast_to(order, part.shape), axis=1)

        return Scene(
            take(self.form), take(self.colour), take(self.x), take(self.y), take(self.radius), legible=self.legible
        )

    def captions(self) -> tuple[str, ...]:
        """One sentence a picture: "a red circle", or "a red circle left of a blue square"."""
        names = [
            [f"a {COLOURS[c]} {FORMS[f]}" for f, c in zip(forms, colours, strict=True)]
            for forms, colours in zip(self.form, self.colour, strict=True)
        ]
        if self.form.shape[1] == 1:
            return tuple(first for (first,) in names)
        return tuple(f"{a} {PLACES[place]} {b}" for (a, b), place in zip(names, self.place, strict=True))

    def says(self, captions: Sequence[str]) -> Array:
        """Whether each picture is legible and shows what its caption says, in either order of the objects, (N,) bool.

        Raises:
            UsageError: Not one caption a picture.
        """
        if len(captions) != len(self):
            raise UsageError(f"there are {len(captions)} captions for {len(self)} pictures; give one for each")
        told = np.array(captions, dtype=object)
        shown = [np.array(scene.captions(), dtype=object) for scene in (self, self.reversed())]
        matches: Array = self.legible & ((told == shown[0]) | (told == shown[1]))
        return matches


class Shapes(DataPart):
    """Coloured circles, squares and triangles on black, anti-aliased, with labels and captions.

    Picture i of a seed is the same whatever the count. With one object the label is its form x colour; with two it is
    that of the object named first, the objects differ in colour, and the caption says how they lie.

    Attributes:
        size: Height and width in pixels; at least 8, with two objects 16, so that forms can be told apart.
        count: Number of pictures.
        seed: Of the pictures.
        objects: In a picture.
        forms: Whether each comes with a grey map of its forms, see `form_map`, which the conditioner `picture` reads.
    """

    kind: Literal["shapes"] = "shapes"
    size: int = Field(default=32, ge=1)
    count: int = Field(default=10_000, ge=1)
    seed: int = 0
    objects: Literal[1, 2] = 1
    forms: bool = False

    @model_validator(mode="after")
    def _large_enough(self) -> Self:
        least = _LEAST_SIZE[self.objects]
        if self.size < least:
            raise ValueError(
                f"size {self.size} is too small to tell forms apart; objects = {self.objects} needs {least}"
            )
        return self

    def scene(self) -> Scene:
        """What the pictures show."""
        drawn = uniform(keys(self.seed, "shapes", 0, torch.arange(self.count)), 11).numpy()
        form = (drawn[:, :2] * len(FORMS)).astype(np.int64)
        first = (drawn[:, 2] * len(COLOURS)).astype(np.int64)
        other = 1 + (drawn[:, 3] * (len(COLOURS) - 1)).astype(np.int64)
        colour = np.stack([first, (first + other) % len(COLOURS)], axis=1)
        low, high = _RADII[self.objects]
        radius = low + (high - low) * drawn[:, 4:6]
        if self.objects == 1:
            x, y = (_within(drawn[:, place : place + 1], radius[:, :1], 0.0, 1.0) for place in (6, 7))
            form, colour, radius = form[:, :1], colour[:, :1], radius[:, :1]
        else:
            x, y = self._pair(drawn[:, 6:], radius)
        return Scene(form, colour, x, y, radius, legible=np.ones(self.count, bool))

    def _pair(self, drawn: Array, radius: Array) -> tuple[Array, Array]:
        """Centres (N, 2) of two objects in two halves of the picture, a clear pixel between them."""
        middle = 0.5 - 1 / self.size
        along = np.stack(
            [_within(drawn[:, 0], radius[:, 0], 0.0, middle), 1 - _within(drawn[:, 1], radius[:, 1], 0.0, middle)],
            axis=1,
        )
        across = _within(drawn[:, 2:3], radius, 0.0, 1.0)
        place = (drawn[:, 3] * len(PLACES)).astype(np.int64)[:, None]
        along = np.where(place % 2 == 0, along, 1 - along)
        return np.where(place < 2, along, across), np.where(place < 2, across, along)

    def load(self, cache: Path | None = None) -> Dataset:
        """Render the pictures; nothing is cached."""
        scene = self.scene()
        dataset = Dataset.of(
            f"shapes{self.size}",
            render(scene, self.size),
            labels=scene.label,
            captions=scene.captions(),
            classes=CLASSES,
        )
        if not self.forms:
            return dataset
        return dataset.beside(picture=Companion(form_map(scene, self.size), np.arange(self.count)))


def _within(drawn: Array, radius: Array, low: float, high: float) -> Array:
    """Centres from numbers in (0, 1), such that any form of that radius lies between low and high."""
    reach = _EXTENT * radius
    centres: Array = low + reach + drawn * (high - low - 2 * reach)
    return centres


def _coverage(form: Array, x: Array, y: Array, radius: Array, size: int) -> Array:
    """How much of each pixel one object covers: all arguments (N,), in pixels -> (N, size, size) in [0, 1].

    The distance to the edge, positive outside, is cut to one pixel's width around it: anti-aliasing.
    """
    middles = np.arange(size, dtype=np.float32) + np.float32(0.5)
    right = middles[None, None, :] - x.astype(np.float32)[:, None, None]
    down = middles[None, :, None] - y.astype(np.float32)[:, None, None]
    radius = radius.astype(np.float32)[:, None, None]
    distance = np.empty((len(form), size, size), np.float32)
    circle, square, triangle = (form == number for number in range(len(FORMS)))
    distance[circle] = np.hypot(right[circle], down[circle]) - radius[circle]
    half = np.float32(_HALF_SIDE) * radius[square]
    distance[square] = np.maximum(np.abs(right[square]), np.abs(down[square])) - half
    slope = np.float32(np.sqrt(3) / 2) * np.abs(right[triangle]) - np.float32(0.5) * down[triangle]
    distance[triangle] = np.maximum(slope, down[triangle]) - np.float32(_INRADIUS) * radius[triangle]
    covered: Array = np.clip(0.5 - distance, 0, 1)
    return covered


def render(scene: Scene, size: int) -> NDArray[np.uint8]:
    """Draw a scene: (N, size, size, 3) uint8."""
    images = np.empty((len(scene), size, size, 3), np.uint8)
    step = max(1, _AT_ONCE // size**2)
    for start in range(0, len(scene), step):
        rows = slice(start, start + step)
        canvas = np.zeros((*images[rows].shape[:3], 3), np.float32)
        for k in range(scene.form.shape[1]):
            x, y, radius = (part[rows, k] * size for part in (scene.x, scene.y, scene.radius))
            covered = _coverage(scene.form[rows, k], x, y, radius, size)
            canvas += covered[..., None] * _RGB[scene.colour[rows, k], None, None]
        images[rows] = np.rint(canvas * 255)
    return images


def form_map(scene: Scene, size: int) -> NDArray[np.uint8]:
    """Which form is where, without colours: (N, size, size, 1) uint8, 0 for none and 85, 170, 255 by `FORMS`."""
    maps = np.zeros((len(scene), size, size, 1), np.uint8)
    for k in range(scene.form.shape[1]):
        x, y, radius = (part[:, k] * size for part in (scene.x, scene.y, scene.radius))
        covered = _coverage(scene.form[:, k], x, y, radius, size) >= 0.5
        value = ((scene.form[:, k] + 1) * 85).astype(np.uint8)
        maps[..., 0] = np.where(covered, value[:, None, None], maps[..., 0])
    return maps


def read_shapes(images: NDArray[np.uint8], objects: int = 1) -> Scene:
    """Read pictures of shapes: which objects of which colour, form and place, and whether that is all there is.

    Each pixel is given to the colour that it is most like; the commonest colours are the objects; a colour's area and
    centre of mass give radius and centre; the form is that which, drawn there, differs least.

    Args:
        images: (N, H, H, 3) uint8.
        objects: How many to look for in a picture.

    Returns:
        The scene; of two objects the left or upper one comes first. Where `legible` is false the rest means little.

    Raises:
        UsageError: Not square RGB pictures.
    """
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3 or not len(images):
        raise UsageError(f"shapes are read from square pictures (N, H, H, 3), not {images.shape}")
    step = max(1, _AT_ONCE // images.shape[1] ** 2)
    pieces = [_read(images[start : start + step], objects) for start in range(0, len(images), step)]
    joined = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    scene = Scene(*joined)
    if objects == 1:
        return scene
    turned = scene.place % 2 == 1  # "right of" and "below" become "left of" and "above"
    return scene._taking(np.where(turned[:, None], [[1, 0]], [[0, 1]]))


def _read(images: NDArray[np.uint8], objects: int) -> tuple[Array, ...]:
    """Fields of a scene, for pictures that fit into memory together."""
    size = images.shape[1]
    light = images.astype(np.float32) / 255
    unit = _RGB / np.linalg.norm(_RGB, axis=1, keepdims=True)
    nearest = (light @ unit.T).argmax(axis=-1)
    strength = light.max(axis=-1)
    masses = np.stack([(strength * (nearest == c)).sum(axis=(1, 2)) for c in range(len(COLOURS))], axis=1)
    ranked = np.argsort(-masses, axis=1, kind="stable")[:, :objects]
    found, misfits = [], []
    for k in range(objects):
        covered = strength * (nearest == ranked[:, k, None, None])
        *fields, misfit = _fit(covered, size)
        found.append(fields)
        misfits.append(misfit)
    form, x, y, radius = (np.stack(parts, axis=1) for parts in zip(*found, strict=True))
    total = np.maximum(masses.sum(axis=1), 1e-6)
    stray = 1 - np.take_along_axis(masses, ranked, axis=1).sum(axis=1) / total
    legible = (np.stack(misfits, axis=1) < _MOST_MISFIT).all(axis=1) & (stray < _MOST_STRAY)
    return form, ranked, x, y, radius, legible


def _fit(covered: Array, size: int) -> tuple[Array, ...]:
    """The form, x, y and radius (shares of the size) that explain (N, H, H) coverage best, and what is left.

    The last is a share of the object's area; 1 and more where there is nothing.
    """
    area = np.maximum(covered.sum(axis=(1, 2)), 1e-6)
    middles = np.arange(size) + 0.5
    x = (covered.sum(axis=1) * middles).sum(axis=1) / area
    y = (covered.sum(axis=2) * middles).sum(axis=1) / area
    radius = np.sqrt(area / np.pi)
    guesses = [_coverage(np.full(len(area), form), x, y, radius, size) for form in range(len(FORMS))]
    misfits = np.stack([np.abs(covered - guess).sum(axis=(1, 2)) / area for guess in guesses], axis=1)
    # A speck smaller than a pixel is explained by any form; it is no object.
    misfits[area < 1] = 1
    return misfits.argmin(axis=1), x / size, y / size, radius / size, misfits.min(axis=1)
