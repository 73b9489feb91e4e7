"""MLP for vector data: points in the plane, weight vectors, latents without a grid."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.networks.blocks.dropout import Dropout
from suffuse.networks.blocks.embeddings import TimeEmbedding
from suffuse.networks.blocks.initialise import zero_weights
from suffuse.networks.contract import Network, Output
from suffuse.networks.execution import call_block, execute
from suffuse.networks.part import NetworkPart, seeded

__all__ = ["MLP", "MLPNetwork"]


class MLP(NetworkPart):
    """Multi-layer perceptron whose every block reads the noise level.

    Attributes:
        width: Width of the hidden layers, of the time embedding and of condition vectors.
        depth: Number of blocks.
        residual: A block adds to its input instead of replacing it.
        frequencies: Sinusoids of the time embedding.
        freq_shift: Their frequency shift, see `Sinusoids`.
        max_period: Longest period of the time embedding over 2 pi.
        dropout: Probability of dropout in each block.
        extra_channels: Input numbers beyond the data's, for conditions that are concatenated.
        zero_init: The output starts at zero.
        checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    kind: Literal["mlp"] = "mlp"
    width: Annotated[int, Field(gt=0)] = 128
    depth: Annotated[int, Field(ge=1)] = 4
    residual: bool = True
    frequencies: Annotated[int, Field(gt=2, multiple_of=2)] = 64
    freq_shift: Literal[0, 1] = 0
    max_period: Annotated[float, Field(gt=1)] = 1e4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    extra_channels: Annotated[int, Field(ge=0)] = 0
    zero_init: bool = True
    checkpointing: bool = False

    def build(self, shape: tuple[int, ...], *, out_channels: int | None = None, seed: int = 0) -> MLPNetwork:
        """Make the network for vectors (D,).

        Raises:
            UsageError: `shape` is not a vector's.
        """
        if len(shape) != 1:
            raise UsageError(f"an MLP needs data of shape (D,), not {shape}; use the network unet or dit for images")
        with seeded(seed):
            return MLPNetwork(self, shape[0], shape[0] if out_channels is None else out_channels)


class _Block(nn.Module):
    """outer(silu(inner(silu(norm(h))) + time(emb))), (B, W) -> (B, W)."""

    def __init__(self, part: MLP, layer: int) -> None:
        super().__init__()
        self.residual = part.residual
        self.norm = nn.LayerNorm(part.width)
        self.inner = nn.Linear(part.width, part.width)
        self.time = nn.Linear(part.width, part.width)
        self.dropout = Dropout(part.dropout, layer)
        self.outer = nn.Linear(part.width, part.width)

    def forward(self, h: Tensor, emb: Tensor, seeds: Tensor | None) -> Tensor:
        changed: Tensor = F.silu(self.inner(F.silu(self.norm(h))) + self.time(emb))
        changed = self.outer(self.dropout(changed, seeds))
        return h + changed if self.residual else changed


class _Head(nn.Module):
    def __init__(self, part: MLP, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(part.width)
        self.linear = nn.Linear(part.width, out_channels)
        if part.zero_init:
            zero_weights(self.linear)

    def forward(self, h: Tensor) -> Tensor:
        value: Tensor = self.linear(F.silu(self.norm(h)))
        return value


class MLPNetwork(Network):
    """The live MLP. Blocks: "stem", "blocks.0", "blocks.1", ..., "output"; a block's name is its path."""

    def __init__(self, part: MLP, channels: int, out_channels: int) -> None:
        super().__init__()
        self.part = part
        self.in_channels = channels + part.extra_channels
        self.cond_width = part.width
        self.time = TimeEmbedding(
            part.frequencies, part.width, freq_shift=part.freq_shift, cosine_first=True, max_period=part.max_period
        )
        self.stem = nn.Linear(self.in_channels, part.width)
        self.blocks = nn.ModuleList(_Block(part, layer) for layer in range(part.depth))
        self.output = _Head(part, out_channels)
        names = ["stem", *(f"blocks.{layer}" for layer in range(part.depth)), "output"]
        self.graph = {"stem": (), **{name: (before,) for before, name in pairwise(names)}}
        self.widths = {name: out_channels if name == "output" else part.width for name in names}

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
        """Evaluate the MLP on x, (B, D + extra_channels); features are (B, width). See `Network.forward`."""
        emb = self.time(told, cond)
        checkpointing = self.part.checkpointing and torch.is_grad_enabled()

        def compute(name: str, inputs: list[Tensor]) -> Tensor:
            block = self.get_submodule(name)
            if name == "stem":
                return call_block(block, x, checkpointing=False)
            if name == "output":
                return call_block(block, *inputs, checkpointing=checkpointing)
            return call_block(block, *inputs, emb, seeds, checkpointing=checkpointing)

        return execute(self, compute, taps=taps, given=given)
