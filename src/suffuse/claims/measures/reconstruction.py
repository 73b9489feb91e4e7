"""How well images come back from an autoencoder: what arms that train one are measured by."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from suffuse.base.part import Part
from suffuse.data import Dataset
from suffuse.metrics import SquaredError
from suffuse.models.codec import Codec
from suffuse.tasks.reconstruct import there_and_back

__all__ = ["Reconstruction"]


class Reconstruction(Part):
    """Peak signal-to-noise ratio, in decibels.

    Attributes:
        samples: Images at most, the first ones.
    """

    kind: Literal["reconstruction"] = "reconstruction"
    samples: int = 2000
    source: ClassVar[tuple[str, ...]] = ("suffuse.models.codec", "suffuse.tasks.reconstruct")

    def of(self, codec: Codec, data: Dataset) -> dict[str, float]:
        """Values by name."""
        error = SquaredError()
        for sent, back in there_and_back(codec, data, torch.arange(min(self.samples, len(data)))):
            error.add(sent, back)
        return {"psnr": error.psnr}
