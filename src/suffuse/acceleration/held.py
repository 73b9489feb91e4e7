"""Held blocks: any named blocks of a network are kept and reused, to try out what no other plan does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from suffuse.acceleration.reuse import ScheduledPlan
from suffuse.base.errors import UsageError
from suffuse.networks.contract import Network

__all__ = ["HeldBlocks"]


class HeldBlocks(ScheduledPlan):
    """The values of the named blocks are kept at some steps and given at the others.

    Blocks that only lead to them do not run; `suffuse.acceleration.Timeline` shows which are left.

    Attributes:
        blocks: Names as the network's `graph` has them.
    """

    kind: Literal["held"] = "held"
    blocks: tuple[str, ...] = Field(min_length=1)

    def names(self, network: Network) -> tuple[str, ...]:
        """The blocks."""
        network.check_names(self.blocks)
        if "output" in self.blocks:
            raise UsageError(
                "held.blocks has 'output', which would leave the network out altogether; hold what it reads"
            )
        return self.blocks
