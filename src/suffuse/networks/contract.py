"""The network contract: named blocks, taps, given, seeds, aux; and the walk that finds which blocks must run."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import unknown_name

__all__ = ["Network", "Output", "TokenMemory", "Tokens", "needed_blocks"]


@dataclass(frozen=True)
class Output:
    """What a network returns.

    Attributes:
        value: The raw output F, (B, C, ...).
        features: The features asked for by `taps`, by block name.
        aux: Auxiliary values by name (router probabilities, learned variance, balance).
    """

    value: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    aux: Mapping[str, Tensor] = field(default_factory=dict)


class TokenMemory:
    """What a network keeps, for its caller, of the tokens that do not run: by name, (B, N, ...), the latest computed.

    Names are those of the attention layers, for keys and values, and "output" for the head's rows.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def recovered(self, name: str, rows: Tensor, index: Tensor | None) -> Tensor:
        """Rows of all tokens, (B, N, D), the given ones fresh; they are kept.

        Args:
            name: What they are.
            rows: Fresh ones, (B, K, D).
            index: Which tokens they are of, (B, K); None for all.
        """
        if index is not None:
            rows = self.kept[name].scatter(1, index.unsqueeze(2).expand_as(rows), rows)
        self.kept[name] = rows
        return rows


@dataclass(frozen=True)
class Tokens:
    """Which tokens of a network run. Their queries attend to all tokens, whose keys and values the memory has.

    Attributes:
        index: Rows that run, (B, K) int64; None for all, which fills the memory.
        memory: Of the others; the caller's, filled by a call with all tokens before the first with some.
    """

    index: Tensor | None
    memory: TokenMemory

    def picked(self, tokens: Tensor) -> Tensor:
        """The tokens that run, (B, K, D), of all, (B, N, D)."""
        if self.index is None:
            return tokens
        return tokens.gather(1, self.index.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


class Network(nn.Module, abc.ABC):
    """Base of all networks: holds weights, no state between calls, no schedule constant.

    Attributes:
        widths: Block name -> channels of the feature that a tap of that block returns.
        graph: Block name -> names of the blocks whose output it reads; "output" is the last one.
        cond_width: Width of the vector that conditioners must deliver.
        token_patch: Side in pixels of the patch behind a token of a network that can run some of its tokens alone:
            its `forward` then takes `tokens: Tokens | None`. None for all others.
    """

    widths: dict[str, int]
    graph: dict[str, tuple[str, ...]]
    cond_width: int
    token_patch: int | None = None

    @abc.abstractmethod
    def forward(
        self,
        x: Tensor,
        told: Tensor,
        cond: Embedding | None = None,
        *,
        seeds: Tensor | None = None,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
    ) -> Output:
        """Evaluate the network.

        Args:
            x: Scaled noisy input c_in * x_t, (B, C, H, W).
            told: What the time condition tells about the noise level, (B,), float32 or wider.
            cond: Embedded conditions; None when the model has none.
            seeds: Keys of all its randomness, (B,) int64; None switches dropout and routing noise off.
            taps: Block names whose features are wanted in `Output.features`.
            given: Features by block name that need not be computed again; blocks that only feed them do not run.
        """

    def needed(self, given: Iterable[str] = ()) -> tuple[str, ...]:
        """Names of the blocks that run when those in `given` are handed in, in order of execution."""
        return needed_blocks(self.graph, given)

    def check_names(self, names: Iterable[str]) -> None:
        """Raise a `UsageError` for a tap or given name that the network does not have."""
        for name in names:
            if name not in self.graph:
                raise unknown_name("block", name, self.graph)


def needed_blocks(
    graph: Mapping[str, tuple[str, ...]], given: Iterable[str], targets: Iterable[str] = ("output",)
) -> tuple[str, ...]:
    """Walk a graph backwards from its targets, stopping at what is given.

    Args:
        graph: Block name -> names that it reads, in order of execution; "output" last.
        given: Names whose value is known.
        targets: What is wanted; the output, and the taps.
    """
    known = set(given)
    wanted: set[str] = set()
    stack = [name for name in targets if name not in known]
    while stack:
        name = stack.pop()
        if name not in wanted:
            wanted.add(name)
            stack.extend(source for source in graph[name] if source not in known)
    return tuple(name for name in graph if name in wanted)
