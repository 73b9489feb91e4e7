"""DeepCache: the deep part of a U-Net's decoder is computed now and then, the shallow part at every step.

Source: ma2024deepcache.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from suffuse.acceleration.reuse import ScheduledPlan
from suffuse.base.errors import UsageError
from suffuse.networks.contract import Network

__all__ = ["DeepCache", "decoder_blocks"]


def decoder_blocks(network: Network) -> tuple[str, ...]:
    """Blocks that read a skip, in order of execution; each reads (the decoder's state, its skip). Empty for others."""
    order = {name: place for place, name in enumerate(network.graph)}
    return tuple(name for name, reads in network.graph.items() if len(reads) == 2 and order[reads[0]] > order[reads[1]])


class DeepCache(ScheduledPlan):
    """The state that enters a decoder block is kept, and what leads to it does not run until the next refresh.

    Time, condition and the skips of the shallow part are always those of the step. Source: ma2024deepcache, Sections
    3.3 and 3.4.

    Attributes:
        branch: Which decoder block, counted from the last: 0 computes only the finest skip anew. The package DeepCache
            counts 3 per level whatever their number; the paper's Stable Diffusion runs at branch 1.
    """

    kind: Literal["deepcache"] = "deepcache"
    branch: int = Field(default=0, ge=0)

    def names(self, network: Network) -> tuple[str, ...]:
        """The state that enters the decoder block."""
        blocks = decoder_blocks(network)
        if not blocks:
            raise UsageError(
                "deepcache keeps a decoder's state, but this network has no decoder that reads skips; use plan "
                "residual or taylor, which keep what blocks add"
            )
        if self.branch >= len(blocks):
            raise UsageError(f"deepcache.branch is {self.branch}, but the branches are 0 to {len(blocks) - 1}")
        return (network.graph[blocks[-1 - self.branch]][0],)
