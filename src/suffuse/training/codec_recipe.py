"""CodecRecipe: a training run of an autoencoder as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.randomness import permutation
from suffuse.data import Dataset
from suffuse.models.codec import Codec, CodecConfig
from suffuse.networks import Autoencoder, KLAutoencoder
from suffuse.objectives.autoencoding import Autoencoding
from suffuse.training.recipe_base import Decode, RecipePart, Resolved

__all__ = ["CodecRecipe"]

_SETTLED = 500  # steps after which a codebook should be in use
_COLLAPSED = 0.05
_OUTPLAYED = 0.02  # of a hinge loss that is 1 for a guess
_PARTS = ("reconstruction", "perceptual", "adversarial", "discriminator")


class CodecRecipe(RecipePart):
    """A training run of an autoencoder, in whose latents a `Recipe` with `codec.run=FOLDER` lives.

    Attributes:
        learns: What it makes.
        network: The autoencoder.
        objective: What is minimised.
    """

    learns: Literal["codec"]
    network: Autoencoder = KLAutoencoder()
    objective: Autoencoding = Autoencoding()

    def check(self) -> None:
        """Refuse a discriminator that a budget of time would not see.

        Raises:
            UsageError: Says which steps are timed.
        """
        adversarial = self.objective.adversarial
        if self.training.minutes is not None and adversarial is not None and adversarial.start:
            raise UsageError(
                f"training.minutes times the first steps, in which the discriminator (from step {adversarial.start} "
                "on) has no part; give training.steps, or objective.adversarial.start=0"
            )

    def resolve(self, dataset: Dataset) -> Resolved[CodecRecipe, CodecConfig]:
        """Take the images' shape.

        Raises:
            UsageError: The network cannot encode it, or the discriminator sees nothing of it.
        """
        latent = self.network.latent_shape(dataset.shape)
        if self.objective.adversarial is not None:
            self.objective.adversarial.discriminator.check(dataset.shape)
        model = CodecConfig(network=self.network, shape=dataset.shape)
        with torch.device("meta"):
            weights = sum(p.numel() for p in self.network.build(dataset.shape).parameters())
        share = math.prod(dataset.shape) / math.prod(latent)
        words = f"latents of {latent[0]}x{latent[1]}x{latent[2]}: {share:.3g} numbers of an image for one of its latent"
        return Resolved(self.replace(data=self.data.anchored()), model, (words, f"{weights:,} parameters"))

    def remarks(self, numbers: Mapping[str, float], step: int) -> tuple[str, ...]:
        """A codebook of which next to nothing is used; a discriminator that is never wrong."""
        if step < min(_SETTLED, self.training.steps // 2):
            return ()
        return (*self._collapsed(numbers.get("codebook_usage", 1.0)), *self._outplayed(numbers, step))

    def _collapsed(self, usage: float) -> tuple[str, ...]:
        if usage > _COLLAPSED:
            return ()
        return (
            f"the codebook has collapsed: {usage:.2g} of the codes that a batch could use are used; try "
            "network.codebook.learns=ema, a larger network.codebook.dead, a smaller learning rate or fewer codes",
        )

    def _outplayed(self, numbers: Mapping[str, float], step: int) -> tuple[str, ...]:
        adversarial = self.objective.adversarial
        # Before it begins its loss is 0, and in the report in which it begins a part of it.
        if adversarial is None or step < adversarial.start + 2 * self.training.log_every:
            return ()
        if numbers.get("discriminator", 1.0) > _OUTPLAYED:
            return ()
        parts = ", ".join(f"{name} {numbers[name]:.3g}" for name in _PARTS if name in numbers)
        return (
            f"the discriminator wins: it is hardly ever wrong, so that the autoencoder learns nothing of it ({parts}); "
            "try a later objective.adversarial.start, a smaller objective.adversarial.weight or discriminator",
        )

    @torch.no_grad()
    def examples(self, model: Codec, dataset: Dataset, decode: Decode | None) -> Tensor:
        """Images and, each beside its own, what comes back of them."""
        n = min(max(1, self.training.samples // 2), len(dataset))
        images = dataset.batch(permutation(0, "reconstructed", 0, len(dataset))[:n]).x0
        assert images is not None
        images = images.to(model.device)
        return torch.stack([images, model.decode(model.encode(images))], dim=1).flatten(0, 1)
