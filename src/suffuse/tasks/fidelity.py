"""Fidelity: how near samples of a plan or of fewer steps come to those of a full run with the same noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from suffuse.data import to_uint8
from suffuse.metrics import FeatureExtractor, Fidelity, extract, psnr, ssim

__all__ = ["FidelityMeter"]

_BATCH = 100  # images that a feature network sees at a time


class FidelityMeter:
    """Holds the images of a full run, and measures others against them.

    Args:
        full: Images of the full run, (n, C, H, W).
        extractor: The feature space of the drift.
    """

    def __init__(self, full: Tensor, extractor: FeatureExtractor) -> None:
        self.full, self.extractor = full.clamp(-1, 1), extractor
        self.features = self._features(full)
        # Samples of the same noise are pairs; each with the next one has nothing to do with it.
        strangers = self.features - np.roll(self.features, 1, axis=0)
        self.apart = float(np.linalg.norm(strangers, axis=1).mean())

    def _features(self, images: Tensor) -> np.ndarray:
        shown = torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return extract(self.extractor, torch.split(shown, _BATCH))

    def measure(self, images: Tensor) -> Fidelity:
        """Fidelity of images with the same noise, (n, C, H, W)."""
        clamped = images.clamp(-1, 1)
        moved = float(np.linalg.norm(self._features(images) - self.features, axis=1).mean())
        return Fidelity(
            psnr=psnr(clamped, self.full), ssim=ssim(clamped, self.full), drift=moved / max(self.apart, 1e-12)
        )
