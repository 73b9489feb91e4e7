"""Aspects: which of several shapes a picture is cropped to, so that little of it is lost."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from suffuse.data.decode import FORMATS, ORIENTATION

__all__ = ["nearest_shape", "shapes_of_aspects", "upright_size"]

_LYING = (5, 6, 7, 8)  # EXIF's orientations in which a picture lies on its side


def shapes_of_aspects(size: int, aspects: Sequence[float], multiple: int) -> tuple[tuple[int, int], ...]:
    """Height and width of each aspect, with about size x size pixels and sides that are multiples of `multiple`.

    Raises:
        ValueError: Two aspects come to the same shape: that one could not be told from the other.
    """
    found: dict[tuple[int, int], float] = {}
    for aspect in aspects:
        width, height = size * math.sqrt(aspect), size / math.sqrt(aspect)
        shape = (max(1, round(height / multiple)) * multiple, max(1, round(width / multiple)) * multiple)
        if shape in found:
            raise ValueError(
                f"aspects {found[shape]:g} and {aspect:g} both come to {shape[1]}x{shape[0]}; leave one out, or "
                f"choose a smaller multiple than {multiple}"
            )
        found[shape] = aspect
    return tuple(found)


def nearest_shape(sizes: NDArray[np.float32], shapes: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Number of the shape that is nearest to each picture in proportions.

    Args:
        sizes: Widths and heights, (N, 2); zeros of pictures that cannot be read, which get -1.
        shapes: Heights and widths.
    """
    wanted = np.log([width / height for height, width in shapes])
    known = (sizes > 0).all(axis=1)
    own = np.log(np.where(known, sizes[:, 0], 1) / np.where(known, sizes[:, 1], 1))
    nearest: NDArray[np.int64] = np.abs(own[:, None] - wanted).argmin(axis=1)
    return np.where(known, nearest, -1)


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height of a picture file when it is turned upright, from its head alone; zeros when it is none."""
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
            lying = image.getexif().get(ORIENTATION, 1) in _LYING
            return (image.height, image.width) if lying else image.size
    except Exception:  # broken bytes raise whatever comes to the format readers; decoding will name them
        return (0, 0)
