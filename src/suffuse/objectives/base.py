"""The objective's contract: a batch goes in, named losses per sample come out, at the cost of one forward."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from suffuse.base.batch import Batch
from suffuse.base.part import Part
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser

__all__ = ["Objective", "ObjectivePart", "Progress"]


@dataclass(frozen=True)
class Progress:
    """Where training stands, for curricula.

    Attributes:
        step: Step that is being taken, from 0.
        total: Steps altogether.
    """

    step: int
    total: int


class Objective(Protocol):
    """Live objective: a function, or a module when it has heads of its own."""

    def __call__(
        self, model: Denoiser, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        """Losses by name, (B,) each; their sum is trained.

        Args:
            model: What is trained.
            batch: Data of this process, B samples.
            progress: Step and total.
            noise: All randomness of these samples at this step.
            player: Whose turn it is; most objectives have one.
        """
        ...


class ObjectivePart(Part, abc.ABC):
    """Configuration of an objective."""

    kind: str

    @abc.abstractmethod
    def build(self, model: Denoiser) -> Objective:
        """Make the live objective for a model.

        Raises:
            UsageError: The objective and the model's parts do not go together.
        """
