"""Samples as files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.data import contact_sheet, to_uint8

__all__ = ["save_each"]


def save_each(x: Tensor, folder: Path, seed: int, first: int) -> None:
    """One PNG a sample, named by seed and number.

    Raises:
        UsageError: The samples are not images.
    """
    if x.ndim != 4:
        raise UsageError("these samples are points, not images; leave --separate out")
    pixels = to_uint8(x)
    for i in range(len(pixels)):
        contact_sheet(pixels[i : i + 1], columns=1).save(folder / f"seed-{seed}-{first + i:06d}.png")
