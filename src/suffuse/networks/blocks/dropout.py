"""Dropout whose masks are functions of (seed of the sample, layer, element): the same in any batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suffuse.base.randomness import keep_mask, keys

__all__ = ["Dropout", "dropout", "layer_salt", "layer_seeds"]


def layer_salt(layer: int) -> int:
    """A fixed random 64-bit number for a layer number."""
    return int(keys(0, "layer", layer, torch.zeros(1, dtype=torch.int64, device="cpu"))[0])


def layer_seeds(seeds: Tensor, salt: int) -> Tensor:
    """Keys of one layer from the keys of the call, (B,) -> (B,) int64; no two layers share them."""
    return seeds ^ salt


def dropout(x: Tensor, p: float, seeds: Tensor | None, salt: int) -> Tensor:
    """Set elements of x to zero with probability p and scale the others by 1 / (1 - p).

    Args:
        x: (B, ...).
        p: Probability, 0 <= p < 1.
        seeds: Keys of the samples, (B,) int64; None returns x as it is.
        salt: `layer_salt` of the layer.
    """
    if seeds is None or p == 0.0:
        return x
    return x * keep_mask(layer_seeds(seeds, salt), tuple(x.shape[1:]), p) / (1.0 - p)


class Dropout(nn.Module):
    """Keyed dropout of one layer. Layers of a network carry different numbers."""

    def __init__(self, p: float, layer: int) -> None:
        super().__init__()
        self.p = p
        # Made here once: the digest behind it cannot be traced by a compiler.
        self.salt = layer_salt(layer)

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        """Drop elements of x, (B, ...), by the samples' keys, (B,); off when `seeds` is None."""
        return dropout(x, self.p, seeds, self.salt)
