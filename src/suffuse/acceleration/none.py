"""No plan: every block computes at every call."""

from __future__ import annotations

from typing import ClassVar, Literal

from suffuse.acceleration.plan import PlanPart, Policy
from suffuse.networks.contract import Network

__all__ = ["NoPlan"]


class NoPlan(PlanPart):
    """Every block computes at every call."""

    kind: Literal["none"] = "none"
    owns: ClassVar[frozenset[Literal["blocks", "tokens", "attention"]]] = frozenset()

    def bind(self, network: Network, steps: int | None) -> Policy:
        """Ask for everything."""
        return lambda ask, moment: ask()
