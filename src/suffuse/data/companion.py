"""Companions: what is known of every sample beside its label, served with it as a condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from suffuse.base.conditions import Conditions

__all__ = ["Companion", "pixels"]

Array = NDArray[Any]  # Any: uint8 pixels, whole numbers or floats


def pixels(stored: Array) -> NDArray[np.float32]:
    """Pictures as networks see them: (B, H, W, C) uint8 -> (B, C, H, W) float32, value / 127.5 - 1."""
    # In numpy, one thread: this runs beside the training step, whose threads it must not compete with.
    seen = stored.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    seen /= np.float32(127.5)
    seen -= 1
    return seen


@dataclass(frozen=True, eq=False)
class Companion:
    """One condition of N samples. Equal values are kept once: a caption's tokens, a text model's states.

    Attributes:
        table: (U, H, W, C) uint8 pictures, which are served in [-1, 1]; whole numbers (U, ...); or floats (U, ...),
            often a mapped file, served as float32.
        rows: Sample i has `table[rows[i]]`, (N,) int64.
        present: Which samples have one, (N,) bool; None when all have.
    """

    table: Array
    rows: NDArray[np.int64]
    present: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one value as it is served: (C, H, W) of pictures."""
        inside = tuple(self.table.shape[1:])
        return (inside[2], *inside[:2]) if self.table.dtype == np.uint8 else inside

    def of(self, places: NDArray[np.int64]) -> Companion:
        """That of some of the samples, by number."""
        return Companion(self.table, self.rows[places], None if self.present is None else self.present[places])

    def added(
        self, cond: Conditions, name: str, places: NDArray[np.int64], turned: NDArray[np.bool_] | None
    ) -> Conditions:
        """Conditions of a batch, with this one.

        Args:
            cond: The others.
            name: What it is called.
            places: Numbers of the samples, (B,).
            turned: Which are mirrored, (B,) bool: pictures are too.
        """
        picked = np.take(self.table, self.rows[places], axis=0)
        if picked.dtype == np.uint8:
            if turned is not None:
                picked[turned] = picked[turned, :, ::-1]
            picked = pixels(picked)
        elif picked.dtype.kind == "f":
            picked = picked.astype(np.float32)
        mask = np.ones(len(places), bool) if self.present is None else self.present[places]
        return Conditions(
            {**cond.values, name: torch.from_numpy(picked)},
            {**cond.present, name: torch.from_numpy(mask)},
            cond.instead,
        )
