"""Samples as files."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from suffuse.base import files
from suffuse.data import contact_sheet, to_uint8

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["save_each", "save_picture", "save_sheet"]


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all.

    Raises:
        RunError: It cannot be written.
    """
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    files.write_bytes(path, buffer.getvalue())


def save_sheet(x: Tensor, path: Path) -> None:
    """All samples on one sheet, about as many rows as columns; points, (n, D), are drawn as a plot."""
    if x.ndim == 4:
        save_picture(contact_sheet(to_uint8(x), columns=math.ceil(math.sqrt(len(x)))), path)
        return
    from suffuse.tasks.plots import scatter

    scatter(x, path)


def save_each(x: Tensor, folder: Path, seed: int, first: int) -> None:
    """One PNG an image of (n, C, H, W), named by seed and number."""
    pixels = to_uint8(x)
    for i in range(len(pixels)):
        save_picture(contact_sheet(pixels[i : i + 1], columns=1), folder / f"seed-{seed}-{first + i:06d}.png")
