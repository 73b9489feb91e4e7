"""Contrastive learning of captions and images: each finds its own among the others of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from suffuse.base.batch import Batch
from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.base.randomness import Draws
from suffuse.models.alignment import Alignment
from suffuse.models.text import CAPTION
from suffuse.objectives.base import Objective, Progress
from suffuse.objectives.batches import data_of

__all__ = ["Contrastive", "belonging"]


def belonging(captions: Tensor) -> Tensor:
    """Which captions of a batch say the same, (B, L) numbers of tokens -> (B, B) bool."""
    return (captions[:, None] == captions[None]).all(dim=2)


class Contrastive(Part):
    """Cross-entropy of "which image has this caption" and "which caption has this image", among those of the batch.

    Data of small worlds say the same of many images: all images with a caption are right answers to it, evenly.

    Source: radford2021clip, Figure 3. With several processes each compares its own share of the batch.
    """

    kind: Literal["contrastive"] = "contrastive"

    def build(self, model: Alignment) -> Objective:
        """Make the live objective."""
        return _Contrastive()


class _Contrastive:
    """The objective; it has no weights of its own."""

    def __init__(self) -> None:
        self.matched: Tensor | None = None

    def __call__(
        self, model: Alignment, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        x = data_of(batch, "contrastive")
        if len(x) < 2:
            raise UsageError("contrastive learning tells the samples of a batch apart, so that it needs 2 or more")
        captions, images = model.captions(batch.cond, len(x)).float(), model.images(x).float()
        with torch.autocast(x.device.type, enabled=False):  # in bfloat16 neighbours among large logits are 0.5 apart
            logits = model.scale * (captions @ images.T)
        same = belonging(batch.cond.values[CAPTION])
        right = same / same.sum(1, keepdim=True)
        image = -(right * logits.log_softmax(1)).sum(1)
        caption = -(right * logits.log_softmax(0).T).sum(1)
        self.matched = same.gather(1, logits.detach().argmax(1, keepdim=True)).float().mean()
        return {"image_of_caption": image / 2, "caption_of_image": caption / 2}

    def after_step(self, model: torch.nn.Module, progress: Progress) -> Mapping[str, Tensor] | None:
        """Keep the temperature; the share of captions whose nearest image in the batch is a right one."""
        assert isinstance(model, Alignment)
        model.warm()
        return None if self.matched is None else {"matched": self.matched}
