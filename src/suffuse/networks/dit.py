"""DiT: a transformer on image patches whose norms are modulated by the noise level.

Source: peebles2023dit; attention to text: chen2024pixart.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError, unknown_name
from suffuse.networks.blocks.attention import SelfAttention
from suffuse.networks.blocks.cross_attention import Context, CrossAttention
from suffuse.networks.blocks.dropout import Dropout
from suffuse.networks.blocks.embeddings import FixedTable, TimeEmbedding, grid_positions
from suffuse.networks.blocks.initialise import zero_weights
from suffuse.networks.blocks.norms import modulate
from suffuse.networks.contract import Network, Output, Tokens
from suffuse.networks.execution import call_block, execute
from suffuse.networks.part import NetworkPart, seeded

__all__ = ["DiT", "DiTNetwork"]

# Name -> (depth, width, heads): S to XL are peebles2023dit's, the small ones are for a CPU.
_SIZES = {
    "tiny": (4, 32, 4),
    "mini": (6, 64, 4),
    "small": (8, 192, 3),
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
_FIXED_EPS = 1e-6


class DiT(NetworkPart):
    """Transformer on patches with adaLN-Zero: exactly the zero map before training.

    Attributes:
        width: Width of a token.
        depth: Number of blocks.
        heads: Attention heads.
        patch: Side of a patch in pixels.
        mlp_ratio: Width of the MLPs' hidden layer over `width`.
        mlp_norm_eps: Epsilon of the norm before each MLP; all other norms have 1e-6 as in peebles2023dit.
        frequencies: Sinusoids of the time embedding.
        freq_shift: Their frequency shift, see `Sinusoids`; 0 as in peebles2023dit, 1 for weights made by diffusers.
        max_period: Longest period of the time embedding over 2 pi.
        dropout: Probability of dropout after attention and in the MLP.
        extra_channels: Input channels beyond the data's, for conditions that are concatenated.
        token_width: Width of a condition's tokens, to which each block attends between its attention and its MLP
            (chen2024pixart); 0 for none.
        checkpointing: Compute activations again in the backward pass instead of keeping them.
    """

    fixed_size: ClassVar[bool] = True
    kind: Literal["dit"] = "dit"
    width: Annotated[int, Field(gt=0, multiple_of=4)] = 384
    depth: Annotated[int, Field(ge=1)] = 12
    heads: Annotated[int, Field(gt=0)] = 6
    patch: Annotated[int, Field(gt=0)] = 2
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    mlp_norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    frequencies: Annotated[int, Field(gt=2, multiple_of=2)] = 256
    freq_shift: Literal[0, 1] = 0
    max_period: Annotated[float, Field(gt=1)] = 1e4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    extra_channels: Annotated[int, Field(ge=0)] = 0
    token_width: Annotated[int, Field(ge=0)] = 0
    checkpointing: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide width = {self.width}")
        return self

    @classmethod
    def preset(cls, size: str, *, patch: int = 2) -> DiT:
        """A DiT of a named size: S, B, L, XL (peebles2023dit), or small, mini, tiny.

        Raises:
            UsageError: No such size.
        """
        if size not in _SIZES:
            raise unknown_name("DiT size", size, _SIZES)
        depth, width, heads = _SIZES[size]
        return cls(depth=depth, width=width, heads=heads, patch=patch)

    def build(self, shape: tuple[int, ...], *, out_channels: int | None = None, seed: int = 0) -> DiTNetwork:
        """Make the network for images (C, H, W). Its weights fit any size; its positions are those of `shape`.

        Raises:
            UsageError: `shape` is not an image's, or its sides are not whole numbers of patches.
        """
        if len(shape) != 3:
            raise UsageError(f"a DiT needs data of shape (C, H, W), not {shape}; use the network mlp for vectors")
        if shape[1] % self.patch or shape[2] % self.patch:
            raise UsageError(
                f"the image is {shape[1]} x {shape[2]}, which patches of side {self.patch} do not tile; "
                f"choose a patch that divides both sides"
            )
        with seeded(seed):
            return DiTNetwork(self, shape, shape[0] if out_channels is None else out_channels)


class _Embed(nn.Module):
    """Patches to tokens, plus their positions: (B, C, H, W) -> (B, N, D)."""

    def __init__(self, part: DiT, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, part.width, part.patch, stride=part.patch)
        self.positions = FixedTable(partial(grid_positions, *grid, part.width))
        # The patch convolution is a linear map of a patch, and is initialised as one.
        zero_weights(self.proj)
        nn.init.xavier_uniform_(self.proj.weight.view(part.width, -1))

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        # In the dtype of x: under autocast the convolution gives bfloat16, but the residual stream stays float32.
        return tokens + self.positions.table.to(x.dtype)


class _Mlp(nn.Module):
    def __init__(self, part: DiT, layer: int) -> None:
        super().__init__()
        hidden = round(part.width * part.mlp_ratio)
        self.inner = nn.Linear(part.width, hidden)
        self.act = nn.GELU(approximate="tanh")
        self.dropout = Dropout(part.dropout, layer)
        self.outer = nn.Linear(hidden, part.width)

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        value: Tensor = self.outer(self.dropout(self.act(self.inner(x)), seeds))
        return value


class _Block(nn.Module):
    """What a block adds to its tokens: gated attention, attention to a condition if there is one, a gated MLP."""

    def __init__(self, part: DiT, layer: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(part.width, 6 * part.width)
        self.norm1 = nn.LayerNorm(part.width, eps=_FIXED_EPS, elementwise_affine=False)
        self.attend = SelfAttention(part.width, part.heads)
        self.dropout = Dropout(part.dropout, 2 * layer)
        self.cross = CrossAttention(part.width, part.heads, part.token_width) if part.token_width else None
        self.norm2 = nn.LayerNorm(part.width, eps=part.mlp_norm_eps, elementwise_affine=False)
        self.mlp = _Mlp(part, 2 * layer + 1)

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        seeds: Tensor | None,
        tokens: Tokens | None = None,
        layer: str = "",
        context: Context | None = None,
    ) -> Tensor:
        """The residual, (B, N, D), of tokens x, (B, N, D), under the embedding's SiLU, (B, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(emb).unsqueeze(1).chunk(6, dim=2)
        attended = gate1 * self.dropout(self.attend(modulate(x, self.norm1, shift1, scale1), tokens, layer), seeds)
        if self.cross is not None and context is not None:
            attended = attended + self.cross(x + attended, context)
        changed = self.mlp(modulate(x + attended, self.norm2, shift2, scale2), seeds)
        return torch.addcmul(attended, gate2, changed)


class _Head(nn.Module):
    """Modulated norm, linear layer, patches to image: (B, N, D) -> (B, C, H, W)."""

    def __init__(self, part: DiT, out_channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.patch, self.grid, self.out_channels = part.patch, grid, out_channels
        self.modulation = nn.Linear(part.width, 2 * part.width)
        self.norm = nn.LayerNorm(part.width, eps=_FIXED_EPS, elementwise_affine=False)
        self.linear = nn.Linear(part.width, part.patch**2 * out_channels)

    def forward(self, x: Tensor, emb: Tensor, tokens: Tokens | None = None) -> Tensor:
        shift, scale = self.modulation(emb).unsqueeze(1).chunk(2, dim=2)
        patches = self.linear(modulate(x, self.norm, shift, scale))
        if tokens is not None:
            patches = tokens.memory.recovered("output", patches, tokens.index)
        (rows, columns), p = self.grid, self.patch
        image: Tensor = patches.view(-1, rows, columns, p, p, self.out_channels).permute(0, 5, 1, 3, 2, 4)
        return image.reshape(-1, self.out_channels, rows * p, columns * p)


class DiTNetwork(Network):
    """The live DiT.

    Blocks: "embed"; for each block its residual "blocks.0.residual" (what it adds) and its value "blocks.0"; "output".
    Giving a residual skips the block's computation but adds it to the tokens that arrive.
    """

    def __init__(self, part: DiT, shape: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.part = part
        self.size = (shape[1], shape[2])
        self.in_channels = shape[0] + part.extra_channels
        self.cond_width = part.width
        self.token_patch = part.patch
        grid = (shape[1] // part.patch, shape[2] // part.patch)
        self.time = TimeEmbedding(
            part.frequencies, part.width, freq_shift=part.freq_shift, cosine_first=True, max_period=part.max_period
        )
        self.embed = _Embed(part, self.in_channels, grid)
        self.blocks = nn.ModuleList(_Block(part, layer) for layer in range(part.depth))
        self.output = _Head(part, out_channels, grid)
        self._initialise()
        self.graph = {"embed": ()}
        for layer in range(part.depth):
            before = next(reversed(self.graph))
            self.graph[f"blocks.{layer}.residual"] = (before,)
            self.graph[f"blocks.{layer}"] = (before, f"blocks.{layer}.residual")
        self.graph["output"] = (f"blocks.{part.depth - 1}",)
        self.widths = {name: out_channels if name == "output" else part.width for name in self.graph}

    def _initialise(self) -> None:
        """Xavier for linear maps, 0.02 for the time MLP, zero for all modulations and the output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for linear in (self.time.inner, self.time.outer):
            nn.init.normal_(linear.weight, std=0.02)
        zero_weights(self.output, *(block.get_submodule("modulation") for block in self.blocks))
        if self.part.token_width:
            zero_weights(*(block.get_submodule("cross.out") for block in self.blocks))

    def forward(
        self,
        x: Tensor,
        told: Tensor,
        cond: Embedding | None = None,
        *,
        seeds: Tensor | None = None,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
        tokens: Tokens | None = None,
    ) -> Output:
        """Evaluate the DiT on x, (B, C + extra_channels, H, W); features are (B, N, D). See `Network.forward`.

        With `tokens` only these run, and the output has all: those that did not run have what they had before.

        Raises:
            UsageError: Another image size than the network was built for; unknown names; `told` in half precision.
        """
        if tuple(x.shape[2:]) != self.size:
            raise UsageError(
                f"the image is {x.shape[2]} x {x.shape[3]}, this DiT was built for {self.size[0]} x {self.size[1]}; "
                f"build it for the other size (its weights fit) or resize"
            )
        emb, context = self.time(told, cond), Context.of(cond, self.part.token_width)
        checkpointing = self.part.checkpointing and torch.is_grad_enabled()

        def compute(name: str, inputs: list[Tensor]) -> Tensor:
            if name == "embed":
                embedded = call_block(self.embed, x, checkpointing=False)
                return embedded if tokens is None else tokens.picked(embedded)
            if name == "output":
                return call_block(self.output, *inputs, emb, tokens, checkpointing=checkpointing)
            if name.endswith(".residual"):
                layer = name.removesuffix(".residual")
                block = self.get_submodule(layer)
                return call_block(block, *inputs, emb, seeds, tokens, layer, context, checkpointing=checkpointing)
            before, residual = inputs
            return before + residual

        return execute(self, compute, taps=taps, given=given)
