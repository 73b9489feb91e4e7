"""Trusses: procedural two-dimensional designs under a load, by a rule, so that the right answer is known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys, uniform
from suffuse.data.companion import Companion
from suffuse.data.dataset import Dataset
from suffuse.data.part import DataPart

__all__ = ["DesignErrors", "Loads", "Trusses", "design_errors"]

Array = NDArray[Any]  # Any: floats, uint8 pixels or truth values

_HELD = 0.04  # x of the supports, as a share of the width
_MARK = 0.06  # radius of a support's or the load's disc in the picture of what is asked
_LARGEST = 0.25  # volume that is drawn as white
_AT_ONCE = 1 << 22  # distances worked on together


@dataclass(frozen=True, eq=False)
class Loads:
    """What N designs are asked for; places are shares of the side, from the left and from the top.

    Attributes:
        supports: Heights of the two supports at the left edge, (N, 2).
        load: Place of the load, (N, 2).
        volume: Share of the area that is solid, (N,).
    """

    supports: Array
    load: Array
    volume: Array

    def bars(self) -> Array:
        """Ends of the bars, (N, 6, 2, 2): two chords from the supports to the load, braced by four."""
        first = np.stack([np.full_like(self.volume, _HELD), self.supports[:, 0]], axis=1)
        second = np.stack([np.full_like(self.volume, _HELD), self.supports[:, 1]], axis=1)
        shares = (np.arange(3) / 3)[:, None, None]
        above, below = (start + shares * (self.load - start) for start in (first, second))  # (3, N, 2) each
        ends = [
            (first, self.load),
            (second, self.load),
            (above[1], below[1]),
            (above[2], below[2]),
            (first, below[1]),
            (above[1], below[2]),
        ]
        return np.stack([np.stack(pair, axis=1) for pair in ends], axis=1)


class Trusses(DataPart):
    """Designs of bars between two supports and a load, white on black, each with a picture of what was asked.

    The rule: the pixels that are nearest to the bars are solid, as many as the volume allows, and those as near as the
    last of them. Design i of a seed is the same whatever the count and the size. Beside each sample, as `picture`
    (3, size, size): the load (red), the supports (green), and the volume as an even brightness (blue, full at a quarter
    of the area).

    A stand-in for the pairs of topology optimisation on which habibi2024ccdm trains: boundary conditions, load and
    volume come as pictures, and the answer is exact.

    Attributes:
        size: Height and width in pixels.
        fine: Designs are drawn so many times larger and averaged, which makes those of `size` the small images of
            larger ones.
        count: Number of designs.
        seed: Of the designs.
    """

    kind: Literal["trusses"] = "trusses"
    size: int = Field(default=32, ge=4)
    fine: int = Field(default=1, ge=1)
    count: int = Field(default=4096, ge=1)
    seed: int = 0

    def asked(self) -> Loads:
        """What the designs are asked for."""
        drawn = uniform(keys(self.seed, "trusses", 0, torch.arange(self.count)), 5).numpy()
        supports = np.stack([0.06 + 0.2 * drawn[:, 0], 0.74 + 0.2 * drawn[:, 1]], axis=1)
        load = np.stack([0.55 + 0.4 * drawn[:, 2], 0.1 + 0.8 * drawn[:, 3]], axis=1)
        return Loads(supports, load, 0.1 + 0.12 * drawn[:, 4])

    def load(self, cache: Path | None = None) -> Dataset:
        """Draw the designs; nothing is cached."""
        asked, side = self.asked(), self.size * self.fine
        designs = _averaged(255 * _solid(asked, side)[..., None].astype(np.uint8), self.fine)
        pictures = _averaged(_pictures(asked, side), self.fine)
        dataset = Dataset.of(f"trusses{self.size}", designs)
        return dataset.beside(picture=Companion(pictures, np.arange(self.count)))


def _centres(side: int) -> Array:
    """Centres of pixels as shares of the side, (side * side, 2): x, y."""
    place = (np.arange(side, dtype=np.float32) + 0.5) / side
    y, x = np.meshgrid(place, place, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _solid(asked: Loads, side: int) -> Array:
    """Which pixels are solid, (N, side, side) bool."""
    centres, bars = _centres(side), asked.bars().astype(np.float32)
    parts = []
    rows = max(1, _AT_ONCE // (len(centres) * bars.shape[1]))
    for start in range(0, len(bars), rows):
        some, volume = bars[start : start + rows], asked.volume[start : start + rows]
        distance = _distance(centres, some)
        wanted = np.rint(volume * len(centres)).astype(np.int64)[:, None] - 1
        farthest = np.take_along_axis(np.sort(distance, axis=1), wanted, axis=1)
        parts.append((distance <= farthest).reshape(-1, side, side))
    return np.concatenate(parts)


def _distance(centres: Array, bars: Array) -> Array:
    """Of each pixel to the nearest bar, (n, P)."""
    start, along = bars[:, None, :, 0], (bars[:, :, 1] - bars[:, :, 0])[:, None]
    offset = centres[None, :, None] - start
    share = np.clip((offset * along).sum(-1) / (along**2).sum(-1), 0, 1)
    nearest: Array = np.sqrt(((offset - share[..., None] * along) ** 2).sum(-1)).min(axis=2)
    return nearest


def _pictures(asked: Loads, side: int) -> Array:
    """What is asked, as pixels, (N, side, side, 3) uint8."""
    centres = _centres(side)
    pixels = np.zeros((len(asked.volume), side * side, 3), np.uint8)
    pixels[:, :, 0] = 255 * _near(centres, asked.load)
    for row in range(2):
        held = np.stack([np.full_like(asked.volume, _HELD), asked.supports[:, row]], axis=1)
        pixels[:, :, 1] |= 255 * _near(centres, held)
    pixels[:, :, 2] = np.rint(255 * asked.volume / _LARGEST)[:, None]
    return pixels.reshape(-1, side, side, 3)


def _near(centres: Array, place: Array) -> Array:
    """Which pixels are near a place each, (N, P) uint8."""
    rows, wanted = max(1, _AT_ONCE // (2 * len(centres))), place.astype(np.float32)
    parts = [
        ((centres[None] - wanted[start : start + rows, None]) ** 2).sum(-1) <= _MARK**2
        for start in range(0, len(wanted), rows)
    ]
    return np.concatenate(parts).astype(np.uint8)


def _averaged(pixels: Array, factor: int) -> Array:
    """Means over blocks, (N, H, W, C) uint8 -> (N, H/factor, W/factor, C) uint8."""
    if factor == 1:
        return pixels
    n, height, width, channels = pixels.shape
    blocks = pixels.reshape(n, height // factor, factor, width // factor, factor, channels)
    means: Array = np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
    return means


@dataclass(frozen=True)
class DesignErrors:
    """How far designs are from what the rule says, each over N of them.

    Attributes:
        overlap: Intersection over union of what is solid, the mean.
        volume: Absolute error of the volume fraction, the median: such errors have heavy tails.
    """

    overlap: float
    volume: float


def design_errors(designs: Array, answers: Array, volume: Array) -> DesignErrors:
    """Compare designs with the rule's, solid being brighter than grey.

    Args:
        designs: (N, H, W, 1) uint8.
        answers: The rule's, of the same shape.
        volume: What was asked for, (N,).

    Raises:
        UsageError: Other shapes.
    """
    if designs.shape != answers.shape or len(volume) != len(designs):
        raise UsageError(
            f"designs have shape {designs.shape}, the answers {answers.shape} and the volumes {volume.shape}; give one "
            "of each for every design"
        )
    made, right = (pixels.reshape(len(pixels), -1) > 127 for pixels in (designs, answers))
    overlap = (made & right).sum(1) / np.maximum(1, (made | right).sum(1))
    return DesignErrors(float(overlap.mean()), float(np.median(np.abs(made.mean(1) - volume))))
