"""Multiply-accumulates of networks, counted on what runs: matrix products, convolutions and attention."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from suffuse.acceleration.plan import Evaluate
from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.models.denoiser import Denoiser

__all__ = ["BlockMacs", "MacCounter", "block_macs", "counted_macs", "denoiser_macs"]


T = TypeVar("T")


@dataclass(frozen=True)
class BlockMacs:
    """Multiply-accumulates of one call.

    Attributes:
        blocks: By block.
        rest: Of what belongs to no block, such as the embedding of the time; it runs with every call.
    """

    blocks: Mapping[str, float]
    rest: float

    @property
    def total(self) -> float:
        """Of a full evaluation."""
        return sum(self.blocks.values()) + self.rest


def counted_macs(run: Callable[[], object]) -> float:
    """Multiply-accumulates of all that a call runs, on real tensors or on the meta device."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 2


class MacCounter:
    """Counts the multiply-accumulates of calls; each kind of call is counted once, and known from then on.

    It can be shared by several contexts, so that one that is timed finds all known.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, float] = {}

    def run(self, call: Callable[[], T], kind: Hashable, rows: int) -> tuple[T, float]:
        """What a call gives, and its multiply-accumulates.

        Args:
            call: The call.
            kind: What it does; calls of a kind take as much for each row.
            rows: Rows of its batch.
        """
        if kind in self._known:
            return call(), self._known[kind] * rows
        with FlopCounterMode(display=False) as counter:
            result = call()
        self._known[kind] = counter.get_total_flops() / 2 / rows
        return result, self._known[kind] * rows


def block_macs(evaluate: Evaluate, graph: Mapping[str, tuple[str, ...]]) -> BlockMacs:
    """Multiply-accumulates of each block of a network, of which each is run alone on what it reads.

    Args:
        evaluate: The network under some arguments.
        graph: Its blocks.
    """
    names = tuple(name for name in graph if name != "output")
    with torch.no_grad():
        features = evaluate(taps=names).features
        total = counted_macs(evaluate)
        alone = {name: counted_macs(partial(_alone, evaluate, name, graph[name], features)) for name in graph}
    # Each call pays the rest once: the sum over n calls has it n times, the full evaluation once.
    rest = (sum(alone.values()) - total) / max(len(alone) - 1, 1)
    return BlockMacs({name: count - rest for name, count in alone.items()}, rest)


def denoiser_macs(model: Denoiser, shape: tuple[int, ...] | None = None, cond: Conditions | None = None) -> BlockMacs:
    """Multiply-accumulates of each block of a denoiser's network for one sample.

    Args:
        model: The denoiser.
        shape: Of a sample; that of the model's configuration when None.
        cond: Conditions of one sample; None for a model without.

    Raises:
        UsageError: No shape is given, and the model has none.
    """
    shape = shape or (model.config.shape if model.config is not None else None)
    if shape is None:
        raise UsageError("this model has no configuration that tells the shape of its samples; give `shape`")
    with torch.no_grad():
        embedded = model.embed((cond or Conditions()).to(model.device), 1, Call())
        x, told = embedded.beside(torch.zeros(1, *shape, device=model.device)), model.told(model.path.t_max, 1)
    return block_macs(partial(model.network, x, told, embedded), model.network.graph)


def _alone(evaluate: Evaluate, name: str, reads: tuple[str, ...], features: Mapping[str, torch.Tensor]) -> object:
    given = {source: features[source] for source in reads}
    if name == "output":
        return evaluate(given=given)
    return evaluate(taps=(name,), given={**given, "output": torch.empty(0)})
