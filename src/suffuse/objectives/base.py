"""The objective's contract: a batch goes in, named losses per sample come out, at the cost of one forward."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.part import Part
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser
from suffuse.models.flow_map import FlowMapSettings
from suffuse.process import PathPart

__all__ = ["Following", "Gathering", "Objective", "ObjectivePart", "Playing", "Progress"]


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
            player: Whose turn it is; most objectives have one, others are `Playing`.
        """
        ...


@runtime_checkable
class Following(Protocol):
    """An objective with weights that follow the model's."""

    def after_step(self, model: nn.Module, progress: Progress) -> Mapping[str, Tensor] | None:
        """Called once the optimisers have moved all weights.

        Returns:
            Numbers for people that are no losses, by name, scalars; None for none.
        """
        ...


@runtime_checkable
class Gathering(Protocol):
    """An objective that counts something over a step's samples, for its `after_step`."""

    def gathered(self, model: nn.Module) -> Iterable[Tensor]:
        """Sums over this process's samples; before `after_step` the trainer makes them the means over all processes."""
        ...


@runtime_checkable
class Playing(Protocol):
    """An objective with players beside the model: modules of its own, each with an optimiser and a turn in every step.

    The model's turn comes first, with all weights that are no other player's; then theirs, in order, each with a call
    of the objective of its own. Whose turn it is not has frozen weights. A player whose losses carry no gradient sits
    the step out.
    """

    @property
    def players(self) -> Mapping[str, nn.Module]:
        """Name, as the objective is called with, and module of each."""
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
