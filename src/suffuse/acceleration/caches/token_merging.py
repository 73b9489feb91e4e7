"""Token merging: like tokens are attended to as one, at the finest resolution.

Source: bolya2023tomesd.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.acceleration.plan import Ask, Asked, Moment, PlanPart, Policy
from suffuse.acceleration.timeline import Timeline
from suffuse.base.errors import UsageError
from suffuse.networks.blocks.attention import SelfAttention
from suffuse.networks.contract import Network, Output
from suffuse.networks.external import DiffusersNetwork
from suffuse.networks.external.patching import Forward, replaced_forwards

__all__ = ["TokenMerging"]


class TokenMerging(PlanPart):
    """Tokens that have a like one are averaged with it before self-attention, and get its output afterwards.

    Likes are looked for among chosen places, which are one in each cell of 2 x 2 tokens, another one at each step.

    Source: bolya2023tomesd, Section 4.

    Attributes:
        ratio: Share of the tokens that are merged away; three in four at most.
        finest: Only where the tokens are so many times fewer along each side as at the finest attention: 1 merges
            there alone, which holds most of the work.
    """

    kind: Literal["token_merging"] = "token_merging"
    owns: ClassVar[frozenset[Literal["blocks", "tokens", "attention"]]] = frozenset({"attention"})
    ratio: float = Field(default=0.5, ge=0, le=0.75)
    finest: int = Field(default=1, ge=1)

    def bind(self, network: Network, steps: int | None) -> Policy:
        """Merge around attention."""
        attentions = _attentions(network)
        if not attentions:
            raise UsageError("token_merging merges before self-attention, but this network has none among tokens")
        return _Merging(self, attentions, network.token_patch or 1)

    def preview(self, network: Network, steps: int) -> Timeline:
        """Every block at every step, though attention on fewer tokens."""
        names = tuple(network.graph)
        return Timeline(names, ((Asked(names),),) * steps)


def _attentions(network: Network) -> tuple[nn.Module, ...]:
    """Self-attention layers that map (B, N, D) to (B, N, D)."""
    if isinstance(network, DiffusersNetwork):
        blocks = (m for m in network.model.modules() if type(m).__name__ == "BasicTransformerBlock")
        return tuple(block.get_submodule("attn1") for block in blocks)
    return tuple(module for module in network.modules() if isinstance(module, SelfAttention))


class _Merging:
    """Token merging at work."""

    def __init__(self, plan: TokenMerging, attentions: tuple[nn.Module, ...], patch: int) -> None:
        self.plan, self.attentions, self.patch = plan, attentions, patch
        self.most = 0  # tokens of the finest attention, once seen

    def __call__(self, ask: Ask, moment: Moment) -> Output:
        if self.plan.ratio == 0:
            return ask()
        sides = (moment.x.shape[-2] // self.patch, moment.x.shape[-1] // self.patch)
        with replaced_forwards({layer: self._around(layer.forward, sides, moment.step) for layer in self.attentions}):
            return ask()

    def _around(self, forward: Forward, sides: tuple[int, int], step: int) -> Forward:
        def merged(x: Tensor, *args: Any, **options: Any) -> Tensor:
            self.most = max(self.most, x.shape[1])
            if x.shape[1] * self.plan.finest**2 < self.most or options.get("encoder_hidden_states") is not None:
                value: Tensor = forward(x, *args, **options)
                return value
            merge, part = _matched(x, _grid(x.shape[1], sides), self.plan.ratio, step)
            return part(forward(merge(x), *args, **options))

        return merged


def _grid(count: int, sides: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of so many tokens of an image with given sides."""
    scale = math.sqrt(sides[0] * sides[1] / count)
    rows = max(round(sides[0] / scale), 1)
    return (rows, count // rows) if count % rows == 0 else (1, count)


def _matched(
    x: Tensor, grid: tuple[int, int], ratio: float, step: int
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """How to merge tokens, and how to part them again.

    Args:
        x: Tokens, (B, N, D), whose likeness decides.
        grid: Their rows and columns.
        ratio: Share that is merged away.
        step: Which of each cell's tokens stay.

    Returns:
        (B, N, D) -> (B, N - R, D), and back.
    """
    B, N = x.shape[:2]
    # Two by two, as far as the sides go.
    rows, columns = (torch.arange(side, device=x.device) for side in grid)
    stays = (rows[:, None] % 2 == step // 2 % min(2, grid[0])) & (columns[None] % 2 == step % min(2, grid[1]))
    stay, go = stays.flatten().nonzero()[:, 0], (~stays).flatten().nonzero()[:, 0]
    count = min(int(ratio * N), len(go))
    unit = nn.functional.normalize(x, dim=2)
    likeness, nearest = (unit[:, go] @ unit[:, stay].transpose(1, 2)).max(dim=2)
    order = likeness.argsort(dim=1, descending=True, stable=True)
    gone, left = order[:, :count], order[:, count:]
    into = nearest.gather(1, gone)

    def rows_of(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(1, index.unsqueeze(2).expand(-1, -1, values.shape[2]))

    def merge(values: Tensor) -> Tensor:
        kept, others = values[:, stay], values[:, go]
        place = into.unsqueeze(2).expand(-1, -1, values.shape[2])
        kept = kept.scatter_reduce(1, place, rows_of(others, gone), "mean", include_self=True)
        return torch.cat([kept, rows_of(others, left)], dim=1)

    def part(values: Tensor) -> Tensor:
        kept, others = values[:, : len(stay)], values[:, len(stay) :]
        # Of those that went: places among `go`, filled in the order of likeness.
        outputs = torch.cat([rows_of(kept, into), others], dim=1)
        gone_rows = outputs.new_empty(B, len(go), values.shape[2])
        gone_rows = gone_rows.scatter(1, order.unsqueeze(2).expand_as(outputs), outputs)
        whole = values.new_empty(B, N, values.shape[2])
        whole[:, stay], whole[:, go] = kept, gone_rows
        return whole

    return merge, part
