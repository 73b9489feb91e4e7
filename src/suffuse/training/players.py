"""Players: whose weights learn in which turn of a step, each by an optimiser of its own. Most runs have one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from suffuse.objectives import Objective, Playing
from suffuse.training.optimiser import build_optimiser
from suffuse.training.settings import OptimiserSettings

__all__ = ["MODEL", "Player", "players_of", "turn_of"]

MODEL = "model"
"""Name of the first player, which has all weights that are no other's."""


@dataclass(frozen=True)
class Player:
    """One turn of a step.

    Attributes:
        name: What the objective is called with.
        named: Its weights by name; those of the objective begin with "objective.".
        optimiser: Of these weights.
    """

    name: str
    named: dict[str, nn.Parameter]
    optimiser: torch.optim.Optimizer


def players_of(model: nn.Module, objective: Objective, settings: OptimiserSettings) -> tuple[Player, ...]:
    """The players of a run, in the order of their turns."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if isinstance(objective, nn.Module):
        own = objective.named_parameters()
        named |= {f"objective.{name}": p for name, p in own if p.requires_grad}
    shares: dict[str, dict[str, nn.Parameter]] = {MODEL: named}
    for name, module in objective.players.items() if isinstance(objective, Playing) else ():
        theirs = {id(p) for p in module.parameters()}
        shares[name] = {key: p for key, p in named.items() if id(p) in theirs}
        shares[MODEL] = {key: p for key, p in shares[MODEL].items() if id(p) not in theirs}
    return tuple(Player(name, share, build_optimiser(share, settings)) for name, share in shares.items())


@contextmanager
def turn_of(player: Player, players: Sequence[Player]) -> Iterator[None]:
    """Freeze the weights of all other players: gradients pass through them, none are made for them."""
    others = [p for other in players if other is not player for p in other.named.values()]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)
