"""Call: the one record that travels from the loop through guidance to the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

__all__ = ["Call"]


@dataclass(frozen=True)
class Call:
    """What an evaluation needs to know beyond x, t and the condition. New needs become fields here.

    Attributes:
        step: Solver step, from 0; None outside a sampling loop.
        steps: Number of solver steps; None outside a sampling loop.
        times: The whole grid, falling, in the path's unit, its end included; empty outside a sampling loop.
        substep: Which evaluation within the step (Heun has two).
        streams: Names of the parts stacked along the batch, such as ("uncond", "cond").
        seeds: Keys for the network's own randomness, (B,) int64; None means no randomness (dropout off).
        taps: Names of features that the evaluation shall return.
        previous: Previous estimate of x0, (B, ...), for self-conditioning.
        memory: Of one batch that is sampled, for what is the same at all its steps; None outside a sampling loop.
        target: Time that a flow map shall go to, in the path's unit: (B,), or one float for all; None for its end.
    """

    step: int | None = None
    steps: int | None = None
    times: tuple[float, ...] = ()
    substep: int = 0
    streams: tuple[str, ...] = ("cond",)
    seeds: Tensor | None = None
    taps: tuple[str, ...] = ()
    previous: Tensor | None = None
    memory: dict[Any, Any] | None = None  # Any: whatever is kept, by whatever tells it apart
    target: float | Tensor | None = None

    def replace(self, **changes: Any) -> Call:  # Any: values of any field
        """A copy with some fields changed."""
        return replace(self, **changes)
