"""Samples as files."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from suffuse.data import contact_sheet, save_picture, to_uint8

__all__ = ["save_each", "save_sheet"]


def save_sheet(x: Tensor, path: Path, *, columns: int | None = None) -> None:
    """All samples on one sheet, about as many rows as columns unless these are given; points, (n, D), as a plot."""
    if x.ndim == 4:
        save_picture(contact_sheet(to_uint8(x), columns=columns or math.ceil(math.sqrt(len(x)))), path)
        return
    from suffuse.tasks.plots import scatter

    scatter(x, path)


def save_each(x: Tensor, folder: Path, name: str, first: int) -> None:
    """One PNG an image of (n, C, H, W), named NAME-NUMBER from `first` on."""
    pixels = to_uint8(x)
    for i in range(len(pixels)):
        save_picture(contact_sheet(pixels[i : i + 1], columns=1), folder / f"{name}-{first + i:06d}.png")
