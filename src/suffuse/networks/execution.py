"""Execution: run the blocks of a network's graph that are needed, and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from suffuse.networks.blocks.cross_attention import Context
from suffuse.networks.contract import Network, Output, Tokens, needed_blocks

__all__ = ["call_block", "execute"]


def execute(
    network: Network,
    compute: Callable[[str, list[Tensor]], Tensor],
    *,
    taps: tuple[str, ...] = (),
    given: Mapping[str, Tensor] | None = None,
) -> Output:
    """Evaluate a network's graph backwards from its output and its taps.

    Args:
        network: Whose `graph` is walked.
        compute: (block name, values of the blocks it reads in the graph's order) -> the block's value.
        taps: Names whose values are returned as features.
        given: Values by name that are not computed again; blocks that only feed them do not run.

    Raises:
        UsageError: A tap or a given name that the network does not have.
    """
    graph = network.graph
    values = dict(given or {})
    network.check_names((*taps, *values))
    names = needed_blocks(graph, values, ("output", *taps))
    last_reader = {source: name for name in names for source in graph[name]}
    for name in names:
        values[name] = compute(name, [values[source] for source in graph[name]])
        # A value is let go after its last reader: only the skips live long, as in a hand-written forward.
        for source in graph[name]:
            if last_reader[source] == name and source not in taps:
                del values[source]
    return Output(values["output"], {tap: values[tap] for tap in taps})


def call_block(block: nn.Module, *inputs: Tensor | Tokens | Context | str | None, checkpointing: bool) -> Tensor:
    """Call a block; with `checkpointing` its inner activations are computed again in the backward pass.

    Nothing has to be remembered of the generators: all randomness of a block comes from its inputs.
    """
    if not checkpointing:
        value: Tensor = block(*inputs)
        return value
    recomputed: Tensor = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
    return recomputed
