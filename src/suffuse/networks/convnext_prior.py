"""ConvNeXtPrior: Wuerstchen's stage C, convolutions and attention at one resolution, for small semantic codes.

Source: pernias2024wuerstchen.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.networks.blocks.condition import check_condition
from suffuse.networks.blocks.convnext import (
    ABHead,
    Stage,
    TimeWaves,
    absolute_spread,
    head_channels,
    initialise,
)
from suffuse.networks.contract import Network, Output
from suffuse.networks.execution import call_block, execute
from suffuse.networks.part import NetworkPart, seeded

__all__ = ["ConvNeXtPrior", "ConvNeXtPriorNetwork"]


class ConvNeXtPrior(NetworkPart):
    """Stages of a convolution, a time and an attention layer (to pixels and text at once), without resampling.

    The defaults are the released second version's, of about a billion weights; the paper's depth is 16.

    Time: sinusoids of `time_scale` times what is told go straight to every time layer. A condition's vector is added to
    them, so it has their width (`cond_width` is `frequencies`). With the default scale the time t of [0, 1], told as
    1000 t, becomes the 10000 t of the released weights.

    Source: pernias2024wuerstchen.

    Attributes:
        width: Channels throughout.
        depth: Number of stages.
        heads: Attention heads.
        frequencies: Sinusoids of time.
        time_scale: Factor on what is told, before the sinusoids.
        dropout: Probability of dropout in the MLPs and after attention.
        head: `ab` gives (x - A) / (|1 - B| + 1e-5) for outputs A and B, an estimate of eps that is x at first, for
            inputs that are not scaled; `plain` gives the output itself, zero at first, for other predictions.
        token_width: Width of the text tokens; 0 for none.
        extra_channels: Input channels beyond the data's, for conditions that are concatenated.
        checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    kind: Literal["convnext_prior"] = "convnext_prior"
    width: Annotated[int, Field(gt=0)] = 1536
    depth: Annotated[int, Field(ge=1)] = 32
    heads: Annotated[int, Field(gt=0)] = 24
    frequencies: Annotated[int, Field(gt=2, multiple_of=2)] = 64
    time_scale: Annotated[float, Field(gt=0)] = 10.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    head: Literal["ab", "plain"] = "ab"
    token_width: Annotated[int, Field(ge=0)] = 0
    extra_channels: Annotated[int, Field(ge=0)] = 0
    checkpointing: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide width = {self.width}; choose a divisor")
        return self

    def build(self, shape: tuple[int, ...], *, out_channels: int | None = None, seed: int = 0) -> ConvNeXtPriorNetwork:
        """Make the network for images (C, H, W). Weights serve every size.

        Raises:
            UsageError: `shape` is not an image's, or the head cannot give so many channels.
        """
        channels = head_channels(self.head, shape, out_channels)
        with seeded(seed):
            return ConvNeXtPriorNetwork(self, shape[0], channels)


class ConvNeXtPriorNetwork(Network):
    """The live prior.

    Blocks: "stem"; for each stage its residual "blocks.0.residual" (what it adds) and its value "blocks.0"; "output".
    Giving a residual skips the stage's computation but adds it to the image that arrives.
    """

    def __init__(self, part: ConvNeXtPrior, channels: int, out_channels: int) -> None:
        super().__init__()
        self.part = part
        self.in_channels = channels + part.extra_channels
        self.cond_width = part.frequencies
        self.time = TimeWaves(part.frequencies, part.time_scale)
        self.text = None
        if part.token_width:
            self.text = nn.Sequential(
                nn.Linear(part.token_width, part.width), nn.LeakyReLU(0.2), nn.Linear(part.width, part.width)
            )
        self.stem = nn.Conv2d(self.in_channels, part.width, 1)
        layer = itertools.count()
        self.blocks = nn.ModuleList(
            Stage(
                "CTA",
                part.width,
                heads=part.heads,
                frequencies=part.frequencies,
                text_width=part.width if part.token_width else 0,
                dropout=part.dropout,
                layer=layer,
            )
            for _ in range(part.depth)
        )
        spread = absolute_spread if part.head == "ab" else None
        self.output = ABHead(part.width, out_channels, patch=1, spread=spread)
        text = [] if self.text is None else [self.text[0], self.text[2]]
        initialise(self, inputs=self.stem, conditions=text, stages=part.depth)
        self.graph = {"stem": ()}
        for stage in range(part.depth):
            before = next(reversed(self.graph))
            self.graph[f"blocks.{stage}.residual"] = (before,)
            self.graph[f"blocks.{stage}"] = (before, f"blocks.{stage}.residual")
        self.graph["output"] = (f"blocks.{part.depth - 1}",)
        self.widths = {name: out_channels if name == "output" else part.width for name in self.graph}

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
        """Evaluate the prior on x, (B, C + extra_channels, H, W); features are (B, width, H, W). See `Network.forward`.

        Raises:
            UsageError: Tokens are missing or of another width; unknown names; `told` in half precision.
        """
        tokens, mask, _ = check_condition(cond, token_width=self.part.token_width, map_channels=0)
        waves = self.time(told, cond)
        text = None if self.text is None or tokens is None else self.text(tokens.to(self.stem.weight.dtype))
        checkpointing = self.part.checkpointing and torch.is_grad_enabled()

        def compute(name: str, inputs: list[Tensor]) -> Tensor:
            if name == "stem":
                # In the dtype of x: under autocast the convolution gives bfloat16, but the sum stays float32.
                return call_block(self.stem, x, checkpointing=False).to(x.dtype)
            if name == "output":
                return call_block(self.output, *inputs, x, checkpointing=checkpointing)
            if len(inputs) == 2:
                return inputs[0] + inputs[1]
            stage = self.get_submodule(name.removesuffix(".residual"))
            return call_block(stage, *inputs, waves, text, mask, None, None, seeds, checkpointing=checkpointing)

        return execute(self, compute, taps=taps, given=given)
