"""MLP for vector data (points in the plane, weight vectors) and for images so small that every pixel may see all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.networks.blocks.condition import check_condition
from suffuse.networks.blocks.dropout import Dropout
from suffuse.networks.blocks.embeddings import TimeEmbedding
from suffuse.networks.blocks.initialise import zero_weights
from suffuse.networks.blocks.norms import NonScalingLayerNorm
from suffuse.networks.contract import Network, Output
from suffuse.networks.execution import call_block, execute
from suffuse.networks.part import NetworkPart, seeded

__all__ = ["MLP", "MLPNetwork"]

_MOST_PIXELS = 1024


class MLP(NetworkPart):
    """Multi-layer perceptron whose every block reads the noise level.

    Attributes:
        width: Width of the hidden layers, of the time embedding and of condition vectors.
        depth: Number of blocks.
        residual: A block adds to its input instead of replacing it.
        frequencies: Sinusoids of the time embedding.
        freq_shift: Their frequency shift, see `Sinusoids`.
        max_period: Longest period of the time embedding over 2 pi.
        fourier: Scale of random frequencies of the time embedding, instead of sinusoids; None for sinusoids.
        norm: Layer norms, or those without a scale (see `NonScalingLayerNorm`).
        dropout: Probability of dropout in each block.
        extra_channels: Input channels beyond the data's, for conditions that are concatenated.
        zero_init: The output starts at zero.
        checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    fixed_size: ClassVar[bool] = True
    kind: Literal["mlp"] = "mlp"
    width: Annotated[int, Field(gt=0)] = 128
    depth: Annotated[int, Field(ge=1)] = 4
    residual: bool = True
    frequencies: Annotated[int, Field(gt=2, multiple_of=2)] = 64
    freq_shift: Literal[0, 1] = 0
    max_period: Annotated[float, Field(gt=1)] = 1e4
    fourier: Annotated[float, Field(gt=0)] | None = None
    norm: Literal["layer", "non_scaling"] = "layer"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    extra_channels: Annotated[int, Field(ge=0)] = 0
    zero_init: bool = True
    checkpointing: bool = False

    def build(self, shape: tuple[int, ...], *, out_channels: int | None = None, seed: int = 0) -> MLPNetwork:
        """Make the network for vectors (D,), or for images (C, H, W), whose pixels it reads as one vector.

        Raises:
            UsageError: `shape` is that of an image of more than 1024 pixels.
        """
        pixels = math.prod(shape[1:])
        if pixels > _MOST_PIXELS:
            raise UsageError(
                f"an MLP sees all pixels at once and does not scale to data of shape {shape}; use the network unet or "
                f"dit, or images of at most {_MOST_PIXELS} pixels"
            )
        with seeded(seed):
            return MLPNetwork(self, shape, shape[0] if out_channels is None else out_channels)


def _norm(part: MLP) -> nn.Module:
    return nn.LayerNorm(part.width) if part.norm == "layer" else NonScalingLayerNorm(part.width)


class _Block(nn.Module):
    """outer(silu(inner(silu(norm(h))) + time(emb))), (B, W) -> (B, W), to which the input is added where asked for."""

    def __init__(self, part: MLP, layer: int) -> None:
        super().__init__()
        self.norm = _norm(part)
        self.inner = nn.Linear(part.width, part.width)
        self.time = nn.Linear(part.width, part.width)
        self.dropout = Dropout(part.dropout, layer)
        self.outer = nn.Linear(part.width, part.width)

    def forward(self, h: Tensor, emb: Tensor, seeds: Tensor | None) -> Tensor:
        changed: Tensor = F.silu(self.inner(F.silu(self.norm(h))) + self.time(emb))
        value: Tensor = self.outer(self.dropout(changed, seeds))
        return value


class _Head(nn.Module):
    def __init__(self, part: MLP, out_channels: int) -> None:
        super().__init__()
        self.norm = _norm(part)
        self.linear = nn.Linear(part.width, out_channels)
        if part.zero_init:
            zero_weights(self.linear)

    def forward(self, h: Tensor) -> Tensor:
        value: Tensor = self.linear(F.silu(self.norm(h)))
        return value


class MLPNetwork(Network):
    """The live MLP. Blocks: "stem", "blocks.0", "blocks.1", ..., "output"; a block's name is its path.

    A residual MLP also names what a block adds to its input, "blocks.0.residual", as a DiT does.
    """

    def __init__(self, part: MLP, shape: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.part = part
        self.in_channels = shape[0] + part.extra_channels
        pixels = math.prod(shape[1:])
        self.cond_width = part.width
        self.time = TimeEmbedding(
            part.frequencies,
            part.width,
            freq_shift=part.freq_shift,
            cosine_first=True,
            max_period=part.max_period,
            fourier=part.fourier,
        )
        self.stem = nn.Linear(self.in_channels * pixels, part.width)
        self.blocks = nn.ModuleList(_Block(part, layer) for layer in range(part.depth))
        self.output = _Head(part, out_channels * pixels)
        self.graph = {"stem": ()}
        for layer in range(part.depth):
            before, name = next(reversed(self.graph)), f"blocks.{layer}"
            if part.residual:
                self.graph[f"{name}.residual"] = (before,)
            self.graph[name] = (before, f"{name}.residual") if part.residual else (before,)
        self.graph["output"] = (f"blocks.{part.depth - 1}",)
        self.widths = {name: out_channels * pixels if name == "output" else part.width for name in self.graph}

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
        """Evaluate the MLP on x, (B, D + extra_channels) or (B, C + extra_channels, H, W); features are (B, width).

        See `Network.forward`.

        Raises:
            UsageError: A condition has tokens or a map, which an MLP does not take.
        """
        check_condition(cond, token_width=0, map_channels=0)
        flat = x.flatten(1)
        emb = self.time(told, cond)
        checkpointing = self.part.checkpointing and torch.is_grad_enabled()

        def compute(name: str, inputs: list[Tensor]) -> Tensor:
            if len(inputs) == 2:
                return inputs[0] + inputs[1]
            block = self.get_submodule(name.removesuffix(".residual"))
            if name == "stem":
                return call_block(block, flat, checkpointing=False)
            if name == "output":
                return call_block(block, *inputs, checkpointing=checkpointing)
            return call_block(block, *inputs, emb, seeds, checkpointing=checkpointing)

        found = execute(self, compute, taps=taps, given=given)
        return replace(found, value=found.value.reshape(len(x), -1, *x.shape[2:]))
