"""CodecRecipe: a training run of an autoencoder as plain data."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from suffuse.base.randomness import permutation
from suffuse.data import Dataset
from suffuse.models.codec import Codec, CodecConfig
from suffuse.networks import Autoencoder, KLAutoencoder
from suffuse.objectives.autoencoding import Autoencoding
from suffuse.training.recipe_base import Decode, RecipePart, Resolved

__all__ = ["CodecRecipe"]


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
        """Nothing: every network goes with every objective."""

    def resolve(self, dataset: Dataset) -> Resolved[CodecRecipe, CodecConfig]:
        """Take the images' shape.

        Raises:
            UsageError: The network cannot encode it.
        """
        latent = self.network.latent_shape(dataset.shape)
        model = CodecConfig(network=self.network, shape=dataset.shape)
        with torch.device("meta"):
            weights = sum(p.numel() for p in self.network.build(dataset.shape).parameters())
        share = math.prod(dataset.shape) / math.prod(latent)
        words = f"latents of {latent[0]}x{latent[1]}x{latent[2]}: {share:.3g} numbers of an image for one of its latent"
        return Resolved(self.replace(data=self.data.anchored()), model, (words, f"{weights:,} parameters"))

    @torch.no_grad()
    def examples(self, model: Codec, dataset: Dataset, decode: Decode | None) -> Tensor:
        """Images and, each beside its own, what comes back of them."""
        n = min(max(1, self.training.samples // 2), len(dataset))
        images = dataset.batch(permutation(0, "reconstructed", 0, len(dataset))[:n]).x0
        assert images is not None
        images = images.to(model.device)
        return torch.stack([images, model.decode(model.encode(images))], dim=1).flatten(0, 1)
