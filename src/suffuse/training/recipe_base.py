"""What all recipes have: data, an optimiser, a length, and the answers that a run needs from its recipe."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from suffuse.base.conditions import Conditions
from suffuse.base.part import Part
from suffuse.data import BucketLoader, Buckets, Data, Dataset, Loader
from suffuse.process import CouplingPart, Independent
from suffuse.training.settings import EvaluationSettings, OptimiserSettings, TrainingSettings
from suffuse.training.world import World

__all__ = ["Decode", "RecipePart", "Resolved"]

Decode = Callable[[Tensor, Conditions | None], Tensor]
"""Latents, and what the model was told -> images."""
R = TypeVar("R", bound="RecipePart", covariant=True)
C = TypeVar("C", bound=Part, covariant=True)


@dataclass(frozen=True)
class Resolved(Generic[R, C]):
    """A recipe after the data have been seen.

    Attributes:
        recipe: With every `auto` replaced by what was chosen.
        model: The model to build.
        notes: What was chosen and why, a sentence each.
    """

    recipe: R
    model: C
    notes: tuple[str, ...]


class RecipePart(Part, abc.ABC):
    """A training run.

    Attributes:
        about: What it is for, in a line.
        technique: Key in the table of techniques; empty for a plain recipe.
        data: What is learned from.
        optimiser, training, evaluation: How.
        out: The run's folder; runs/<name of the recipe> when None.
    """

    about: str = ""
    technique: str = ""
    data: Data
    optimiser: OptimiserSettings = OptimiserSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    out: str | None = None

    @abc.abstractmethod
    def check(self) -> None:
        """Refuse parts that do not go together, before any data are read.

        Raises:
            UsageError: Names the parts, the reason and the mend.
        """

    @abc.abstractmethod
    def resolve(self, dataset: Dataset) -> Resolved[RecipePart, Part]:
        """Let the data decide what was left to them.

        Raises:
            UsageError: Recipe and data do not go together.
        """

    @property
    def pairing(self) -> tuple[CouplingPart, bool]:
        """Which noise goes with which sample, and whether that minds the classes."""
        return Independent(), False

    def loader(self, samples: Dataset | Buckets, world: World) -> Loader:
        """The batches of this run, for one of its processes."""
        settings, (coupling, labelled) = self.training, self.pairing
        return (BucketLoader if isinstance(samples, Buckets) else Loader)(
            samples,  # type: ignore[arg-type]  # of the kind that this loader takes
            batch=settings.batch,
            seed=settings.seed,
            rank=world.rank,
            world=world.size,
            flip=settings.flip,
            coupling=coupling,
            labelled=labelled,
        )

    def remarks(self, numbers: Mapping[str, float], step: int) -> tuple[str, ...]:
        """What a user should know of the numbers of a report, a sentence each.

        What stands before a sentence's first colon names the thing, which is told once.

        Args:
            numbers: As logged.
            step: Steps taken.
        """
        return ()

    @abc.abstractmethod
    def examples(self, model: Any, dataset: Dataset, decode: Decode | None) -> Tensor:  # Any: of the recipe's kind
        """What the model does, in pictures or points: `training.samples` of them, (n, ...).

        Args:
            model: In evaluation mode.
            dataset: What it learns from.
            decode: Images of its latents; None for a model of pixels or points, or of images itself.
        """
