"""Reuse of what blocks add to their tokens: in transformers, which have no skips."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from suffuse.acceleration.reuse import ScheduledPlan
from suffuse.base.errors import UsageError
from suffuse.networks.contract import Network

__all__ = ["ResidualReuse", "Taylor", "residual_blocks"]


def residual_blocks(network: Network) -> tuple[str, ...]:
    """Names of the blocks that add a residual to their tokens, in order of execution."""
    return tuple(name for name in network.graph if f"{name}.residual" in network.graph)


class ResidualReuse(ScheduledPlan):
    """What each block of a range adds is kept, and added again until the next refresh.

    The sum over a range is the residual of chen2024deltadit; kept block by block it can also be tapped, and is
    extrapolated as well (`order`).

    Attributes:
        first: First block of the range.
        last: Its last block; None for the last but one of the network, so that the last always sees the step's time.
    """

    kind: Literal["residual"] = "residual"
    first: int = Field(default=1, ge=0)
    last: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _range(self) -> ResidualReuse:
        if self.last is not None and self.last < self.first:
            raise ValueError(f"last {self.last} is before first {self.first}; swap them")
        return self

    def names(self, network: Network) -> tuple[str, ...]:
        """The residuals of the range."""
        blocks = residual_blocks(network)
        last = len(blocks) - 2 if self.last is None else self.last
        if not blocks:
            raise UsageError(
                f"plan {self.kind!r} keeps what blocks add to their tokens, but this network has no such blocks; use "
                "plan deepcache or encoder_reuse on a U-Net"
            )
        if last >= len(blocks) or self.first > last:
            raise UsageError(
                f"plan {self.kind!r} is about blocks {self.first} to {last}, but the network's are 0 to "
                f"{len(blocks) - 1}; choose first and last among them"
            )
        return tuple(f"{block}.residual" for block in blocks[self.first : last + 1])


class Taylor(ResidualReuse):
    """What every block adds is extrapolated from the last refreshes: TaylorSeer, in a Denoiser's noise level.

    Of order 0 it is FORA without its current gates. Source: liu2025taylorseer, Eqs. 4 to 6, which count steps.

    Attributes:
        warm_up: So many first steps compute everything.
    """

    kind: Literal["taylor"] = "taylor"  # type: ignore[assignment]  # a name of its own
    every: int = Field(default=5, ge=1)
    order: Literal[0, 1, 2] = 1
    first: int = Field(default=0, ge=0)
    warm_up: int = Field(default=3, ge=1)

    def names(self, network: Network) -> tuple[str, ...]:
        """The residuals of all blocks, if the range is not narrower."""
        return (
            self.replace(last=len(residual_blocks(network)) - 1).names(network)
            if self.last is None
            else super().names(network)
        )

    def refreshes(self, steps: int | None) -> tuple[int, ...] | None:
        """The first ones, and those of the schedule after them."""
        if steps is None and self.refresh is None and self.schedule == "uniform":
            return None
        first = range(self.warm_up if steps is None else min(self.warm_up, steps))
        if self.refresh is None and self.schedule == "uniform":
            assert steps is not None
            return (*first, *(step for step in range(steps) if step not in first and self.newest(step) == step))
        found = super().refreshes(steps)
        assert found is not None
        return tuple(sorted({*first, *found}))

    def newest(self, step: int) -> int:
        """Every step at first; then every so many."""
        last = self.warm_up - 1
        return step if step < last else step - (step - last) % self.every
