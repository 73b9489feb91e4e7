"""What is known of a foreign network: the names and order of its blocks, and the forwards that skip or tap them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from suffuse.networks.contract import Tokens
from suffuse.networks.external.patching import Forward

__all__ = ["Asked", "BlockMap", "Enough", "ghost", "tapped"]


class Enough(Exception):  # noqa: N818  # no error: it ends a forward
    """Raised inside a foreign forward when all that was asked of it is known, to end it."""


@dataclass(frozen=True)
class Asked:
    """What one call asks of the blocks.

    Attributes:
        given: Values by name that are not computed again.
        taps: Names whose values are wanted.
        needed: Names of the blocks that run.
        tapped: Filled during the call: name -> value.
    """

    given: Mapping[str, Tensor]
    taps: frozenset[str]
    needed: frozenset[str]
    tapped: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, name: str, value: Tensor) -> None:
        """Take a block's value where it is wanted.

        Raises:
            Enough: All taps are known, and the output is given.
        """
        if name not in self.taps or name in self.given:
            return
        self.tapped[name] = value
        if "output" in self.given and self.tapped.keys() | self.given.keys() >= self.taps:
            raise Enough


@dataclass(frozen=True)
class BlockMap:
    """A network's blocks.

    Attributes:
        graph: As `Network.graph`.
        widths: As `Network.widths`.
        forwards: What is asked -> the replaced forwards by module.
        tokens: Which tokens run -> the replaced forwards by module, made while those of `forwards` are in place; None
            for a network that cannot run some of its tokens alone.
        token_patch: As `Network.token_patch`.
    """

    graph: dict[str, tuple[str, ...]]
    widths: dict[str, int]
    forwards: Callable[[Asked], dict[nn.Module, Forward]]
    tokens: Callable[[Tokens], dict[nn.Module, Forward]] | None = None
    token_patch: int | None = None


def ghost(like: Tensor, *shape: int) -> Tensor:
    """Zeros without storage, which no block that runs reads."""
    return torch.zeros((), dtype=like.dtype, device=like.device).expand(shape)


def tapped(module: nn.Module, name: str, asked: Asked, *, copied: bool = False) -> Forward:
    """A module's own forward, whose value is kept under a name; a copy of it where later modules may change it."""
    forward = module.forward

    def kept(*args: Any, **options: Any) -> Any:  # Any: the signatures of foreign modules
        answer = forward(*args, **options)
        value = answer[0] if isinstance(answer, tuple) else answer
        asked.keep(name, value.clone() if copied else value)
        return answer

    return kept
