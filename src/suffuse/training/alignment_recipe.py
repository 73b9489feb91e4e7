"""AlignmentRecipe: a training run of a text encoder, and of an image encoder beside it, as plain data."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.randomness import permutation
from suffuse.data import Dataset
from suffuse.models.alignment import Alignment, AlignmentConfig
from suffuse.models.text import Text
from suffuse.networks import Compressor
from suffuse.objectives.contrastive import Contrastive
from suffuse.training.recipe_base import Decode, RecipePart, Resolved

__all__ = ["AlignmentRecipe"]

_AMONG = 512  # images that are searched for a sheet


class AlignmentRecipe(RecipePart):
    """A training run on captioned images, whose text encoder a `Recipe` with `conditioner.run=FOLDER` starts from.

    Attributes:
        learns: What it makes.
        network: The image encoder.
        width: Of the space that both encode to.
        conditioner: The text encoder.
        objective: What is minimised.
    """

    learns: Literal["alignment"]
    network: Compressor = Compressor()
    width: int = Field(default=64, ge=1)
    conditioner: Text = Text()
    objective: Contrastive = Contrastive()

    def check(self) -> None:
        """Refuse what cannot be learned by telling captions apart.

        Raises:
            UsageError: Names the setting and the mend.
        """
        if self.conditioner.run is not None or self.conditioner.pooled:
            raise UsageError(
                "an alignment trains a fresh text encoder without a pooled vector; leave conditioner.run and "
                "conditioner.pooled out"
            )
        if self.network.backbone == "absent":
            raise UsageError("an alignment trains its image encoder, and backbone absent is none; use conv")
        if self.training.batch // self.training.accumulate < 2:
            raise UsageError(
                f"training.batch {self.training.batch} in {self.training.accumulate} parts leaves nothing to tell "
                "apart; use at least 2 samples a part, better 128"
            )

    def resolve(self, dataset: Dataset) -> Resolved[AlignmentRecipe, AlignmentConfig]:
        """Take the images' shape.

        Raises:
            UsageError: The network cannot encode it.
        """
        self.network.latent_shape(dataset.shape)
        model = AlignmentConfig(text=self.conditioner, network=self.network, width=self.width, shape=dataset.shape)
        with torch.device("meta"):
            weights = sum(p.numel() for p in model.build().parameters())
        return Resolved(self.replace(data=self.data.anchored()), model, (f"{weights:,} parameters",))

    @torch.no_grad()
    def examples(self, model: Alignment, dataset: Dataset, decode: Decode | None) -> Tensor:
        """Images and, each beside its own, the one that is nearest to its caption."""
        n = min(max(1, self.training.samples // 2), len(dataset))
        batch = dataset.batch(permutation(0, "aligned", 0, len(dataset))[:_AMONG])
        assert batch.x0 is not None
        # As many at a time as in a training step, which fit.
        parts = torch.split(batch.x0, max(1, self.training.batch // self.training.accumulate))
        among = torch.cat([model.images(part.to(model.device)) for part in parts])
        nearest = (model.captions(batch.cond[:n].to(model.device), n) @ among.T).argmax(1).cpu()
        return torch.stack([batch.x0[:n], batch.x0[nearest]], dim=1).flatten(0, 1)
