"""The objective's contract: a batch goes in, named losses per sample come out, at the cost of one forward."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.part import Part
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser
from suffuse.models.flow_map import FlowMapSettings
from suffuse.process import PathPart

__all__ = ["Following", "Objective", "ObjectivePart", "Progress"]


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
    """Live objective: a function, or a module when it has heads or averages of its own.

    One that is a `Following` too is told when the optimiser has moved the weights.
    """

    def __call__(
        self, model: Any, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        """Losses by name, (B,) each; their sum is trained.

        Args:
            model: What is trained; a denoiser, or whatever the objective is for.
            batch: Data of this process, B samples.
            progress: Step and total.
            noise: All randomness of these samples at this step.
            player: Whose turn it is; most objectives have one.
        """
        ...


@runtime_checkable
class Following(Protocol):
    """An objective with weights that follow the model's."""

    def after_step(self, model: nn.Module, progress: Progress) -> None:
        """Called once the optimiser has moved the model's weights."""
        ...


class ObjectivePart(Part, abc.ABC):
    """Configuration of an objective.

    Attributes:
        couples: Whether it pairs data with noise, so that a coupling has a meaning.
        differentiates: Whether it takes derivatives through the network in its inputs.
        needs_init: Whether it starts from a finished model.
        condition_dropout: Probability that a sample's conditions are hidden.
    """

    kind: str
    couples: ClassVar[bool] = True
    differentiates: ClassVar[bool] = False
    needs_init: ClassVar[bool] = False
    condition_dropout: float = 0.0

    def flow_map(self) -> FlowMapSettings | None:
        """The flow map that it trains; None for a denoiser."""
        return None

    def check(self, path: PathPart, steps: int) -> None:
        """Raise a `UsageError` when the objective cannot be trained on the path, or in so many steps."""

    def shortened(self, steps: int) -> Self:
        """The same objective for a trial of so few steps, whose curriculum would not fit."""
        return self

    @abc.abstractmethod
    def build(self, model: Denoiser) -> Objective:
        """Make the live objective for a model.

        Raises:
            UsageError: The objective and the model's parts do not go together.
        """
