"""Autoencoding: images are to come back from latents that are small and smooth."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from suffuse.base.batch import Batch
from suffuse.base.part import Part
from suffuse.base.randomness import Draws
from suffuse.models.codec import Codec
from suffuse.objectives.base import Objective, Progress
from suffuse.objectives.batches import data_of

__all__ = ["Autoencoding"]


class Autoencoding(Part):
    """Reconstruction error and the divergence of the latents from a standard Gaussian.

    Both are means over an image's elements, which keeps the ratio of the two sums that the source trains with.

    Source: rombach2022ldm, Section 3.1 and Appendix G, without its perceptual and adversarial terms.

    Attributes:
        error: Absolute or squared difference.
        kl: Factor on the divergence, in nats; small, so that it only keeps the latents from growing.
    """

    kind: Literal["autoencoding"] = "autoencoding"
    error: Literal["l1", "l2"] = "l1"
    kl: float = Field(default=1e-6, ge=0)

    def build(self, model: Codec) -> Objective:
        """A function: the objective has no weights of its own."""
        return self._losses

    def _losses(
        self, model: Codec, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        x = data_of(batch, self.kind)
        mean, log_variance = model.network.moments(x)
        mean, log_variance = mean.float(), log_variance.float()
        eps = noise.normal("posterior", tuple(mean.shape[1:]))
        images = model.network.decode(mean + (0.5 * log_variance).exp() * eps)
        difference = (images.float() - x).flatten(1)
        error = difference.abs() if self.error == "l1" else difference.square()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)
        return {"reconstruction": error.mean(1), "kl": self.kl * divergence / x[0].numel()}
