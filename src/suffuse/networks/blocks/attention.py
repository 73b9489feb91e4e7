"""Self-attention on tokens, and on the pixels of an image.

Shape letters: B batch, N tokens, D width, H heads, C channels; H and W are an image's sides where C stands beside them.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from suffuse.networks.blocks.initialise import zero_weights
from suffuse.networks.blocks.norms import Norm, image_norm
from suffuse.networks.contract import Tokens

__all__ = ["ImageAttention", "SelfAttention"]


class SelfAttention(nn.Module):
    """Multi-head self-attention, (B, N, D) -> (B, N, D). Rows of `qkv` are queries, keys, values.

    Source: vaswani2017attention.

    Args:
        width: D.
        heads: Number of heads, a divisor of D.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tokens | None = None, layer: str = "", mask: Tensor | None = None) -> Tensor:
        """Attend among the tokens of each sample; with `tokens`, from these to all that the memory has of the layer.

        Args:
            x: (B, N, D).
            tokens: Which tokens x has, and what is known of the others; None for all.
            layer: Name of the layer in the memory.
            mask: Which tokens may be attended to, (B, 1, 1, N) bool; None for all.
        """
        B, N, D = x.shape
        heads = (self.heads, D // self.heads)
        if tokens is None:
            q_BHND, k_BHND, v_BHND = self.qkv(x).view(B, N, 3, *heads).permute(2, 0, 3, 1, 4).unbind()
        else:
            q_BND, kv_BND = self.qkv(x).split((D, 2 * D), dim=2)
            kv_BMD = tokens.memory.recovered(layer, kv_BND, tokens.index)
            q_BHND = q_BND.view(B, N, *heads).transpose(1, 2)
            k_BHND, v_BHND = kv_BMD.view(B, kv_BMD.shape[1], 2, *heads).permute(2, 0, 3, 1, 4).unbind()
        mixed_BHND = F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, attn_mask=mask)
        value: Tensor = self.out(mixed_BHND.transpose(1, 2).reshape(B, N, D))
        return value


class ImageAttention(nn.Module):
    """x + attention among its pixels, (B, C, H, W) -> (B, C, H, W). Source: ho2020ddpm.

    Args:
        channels: C.
        heads: Number of heads, a divisor of C.
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
        self.attend = SelfAttention(channels, heads)
        if zero_init:
            zero_weights(self.attend.out)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among the pixels of each image."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        mixed: Tensor = self.attend(tokens)
        added: Tensor = x + mixed.transpose(1, 2).reshape(x.shape)
        return added if self.scale == 1.0 else added * self.scale
