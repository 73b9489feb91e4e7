"""The digits embedded in scikit-learn: 1,797 grey pictures of 8 x 8 pixels, no download."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from suffuse.data.dataset import Dataset
from suffuse.data.decode import resized
from suffuse.data.part import DataPart

__all__ = ["Digits"]

_NATIVE, _LEVELS = 8, 16


class Digits(DataPart):
    """Handwritten digits with their labels, grey.

    Source: alpaydin1998optdigits, the test half, as scikit-learn ships it.

    Attributes:
        size: Height and width in pixels; 8 is how they are, others are resized (bicubic).
    """

    kind: Literal["digits"] = "digits"
    size: int = Field(default=_NATIVE, ge=1)

    def load(self, cache: Path | None = None) -> Dataset:
        """The 1,797 digits; nothing is cached."""
        from PIL.Image import fromarray
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = np.rint(found.images * (255 / _LEVELS)).astype(np.uint8)
        if self.size != _NATIVE:
            pixels = np.stack([np.asarray(resized(fromarray(image), (self.size, self.size))) for image in pixels])
        return Dataset.of("digits", pixels[..., None], labels=found.target, classes=[str(n) for n in range(10)])
