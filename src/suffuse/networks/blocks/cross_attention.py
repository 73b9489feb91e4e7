"""Attention to a condition's tokens, and the transformer block in which images of a U-Net read text.

Shape letters: B batch, N tokens, M tokens of the condition, D width, H heads, C channels; H and W are an image's sides
where C stands beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.networks.blocks.attention import SelfAttention
from suffuse.networks.blocks.condition import check_condition
from suffuse.networks.blocks.initialise import zero_weights
from suffuse.networks.blocks.norms import Norm, image_norm

__all__ = ["Context", "CrossAttention", "SpatialTransformer"]


@dataclass(frozen=True)
class Context:
    """Tokens of a condition, as blocks read them.

    Attributes:
        tokens: (B, M, T).
        mask: Which of them count, (B, 1, 1, M) bool; None when all do.
    """

    tokens: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, cond: Embedding | None, width: int) -> Context | None:
        """The tokens of an embedding for a network that takes them `width` wide; None for one that takes none.

        Raises:
            UsageError: There are none, some that it does not take, or of another width; a map, which it does not take.
        """
        tokens, mask, _ = check_condition(cond, token_width=width, map_channels=0)
        if tokens is None:
            return None
        return cls(tokens, None if mask is None else mask[:, None, None, :])


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to those of a condition, (B, N, D) -> (B, N, D).

    Source: vaswani2017attention; rombach2022ldm, Section 3.3.

    Args:
        width: D.
        heads: Number of heads, a divisor of D.
        token_width: Width of the condition's tokens.
    """

    def __init__(self, width: int, heads: int, token_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(token_width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Attend to the condition's tokens."""
        B, N, D = x.shape
        q_BHND = self.queries(x).view(B, N, self.heads, -1).transpose(1, 2)
        kv = self.keys_values(context.tokens).view(B, context.tokens.shape[1], 2, self.heads, -1)
        k_BHMD, v_BHMD = kv.permute(2, 0, 3, 1, 4).unbind()
        mixed_BHND = F.scaled_dot_product_attention(q_BHND, k_BHMD, v_BHMD, attn_mask=context.mask)
        value: Tensor = self.out(mixed_BHND.transpose(1, 2).reshape(B, N, D))
        return value


class _GatedMLP(nn.Module):
    """outer(a * gelu(b)), of four times the width. Source: shazeer2020glu (GEGLU)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 8 * width)
        self.outer = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.inner(x).chunk(2, dim=2)
        value: Tensor = self.outer(a * F.gelu(b))
        return value


class SpatialTransformer(nn.Module):
    """x + a transformer block on its pixels, which attends to them and to a condition: (B, C, H, W) -> (B, C, H, W).

    Norm, a 1x1 convolution in, attention among pixels, attention to the condition, a gated MLP, a 1x1 convolution out.

    Source: rombach2022ldm, Section 3.3 and Appendix E.2.1.

    Args:
        channels: C.
        heads: Number of heads, a divisor of C.
        token_width: Width of the condition's tokens.
        groups: Groups of the norm in front; None leaves the norm out.
        eps: The norm's epsilon.
        zero_init: Start as the identity.
        norm: Kind of the norm in front.
        scale: Factor on the sum, see `ResBlock`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        token_width: int,
        *,
        groups: int | None,
        eps: float,
        zero_init: bool,
        norm: Norm = "group",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.norm = nn.Identity() if groups is None else image_norm(norm, channels, groups=groups, eps=eps)
        self.inner = nn.Linear(channels, channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.attend = SelfAttention(channels, heads)
        self.cross = CrossAttention(channels, heads, token_width)
        self.mlp = _GatedMLP(channels)
        self.outer = nn.Linear(channels, channels)
        if zero_init:
            zero_weights(self.outer)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Attend among the pixels of each image and to its condition."""
        h = self.inner(self.norm(x).flatten(2).transpose(1, 2))
        h = h + self.attend(self.norm1(h))
        h = h + self.cross(self.norm2(h), context)
        h = h + self.mlp(self.norm3(h))
        added: Tensor = x + self.outer(h).transpose(1, 2).reshape(x.shape)
        return added if self.scale == 1.0 else added * self.scale
