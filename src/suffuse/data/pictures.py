"""Pictures on their way out: from a network's range to uint8, and many of them on one sheet."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["contact_sheet", "save_picture", "to_uint8"]

_LEGIBLE = 64  # pixels: smaller pictures are enlarged on a sheet


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """The one exit of images: (B, C, H, W) in [-1, 1] -> (B, H, W, C) uint8.

    Values are cut at -1 and 1 (a sampler may overshoot by a little; files hold no more), then (x + 1) * 127.5 is
    rounded to the nearest whole number: the inverse of how data come in.

    Raises:
        RunError: The images hold NaN.
        UsageError: They are not images.
    """
    if x.ndim != 4:
        raise UsageError(f"images must have shape (B, C, H, W), not {tuple(x.shape)}")
    pixels = x.detach().float().cpu().numpy()
    if np.isnan(pixels).any():
        row = int(np.argmax(np.isnan(pixels).reshape(len(pixels), -1).any(axis=1)))
        raise RunError(f"image {row} of {len(pixels)} holds NaN; the model or the sampler that made it is broken")
    whole = np.rint((pixels.clip(-1, 1) + 1) * np.float32(127.5)).astype(np.uint8)
    return np.ascontiguousarray(whole.transpose(0, 2, 3, 1))


def contact_sheet(images: NDArray[np.uint8], columns: int | None = None, *, zoom: int | None = None) -> Image.Image:
    """Lay pictures out in rows.

    Args:
        images: (B, H, W, C) uint8 with 1, 3 or 4 channels.
        columns: Pictures in a row; about as many as rows when None.
        zoom: Whole factor by which pixels are repeated; None for the least that makes them 64 pixels high.

    Raises:
        UsageError: No pictures, or a number of channels that no picture has.
    """
    from PIL import Image

    if images.ndim != 4 or not images.size or images.shape[3] not in (1, 3, 4):
        raise UsageError(f"a sheet needs pictures (B, H, W, 1, 3 or 4), not {images.shape}")
    count, height, width, channels = images.shape
    zoom = zoom or math.ceil(_LEGIBLE / height)
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    gap = max(1, zoom // 2)
    big = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    cells = np.full((rows * columns, height * zoom + gap, width * zoom + gap, channels), 255, dtype=np.uint8)
    cells[:count, :-gap, :-gap] = big
    grid = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    sheet = grid.reshape(rows * cells.shape[1], columns * cells.shape[2], channels)[:-gap, :-gap]
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all.

    Raises:
        RunError: It cannot be written.
    """
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    files.write_bytes(path, buffer.getvalue())
