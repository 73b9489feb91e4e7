"""A discriminator of patches: real or made, for every patch of an image that its convolutions see."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.networks.part import seeded

__all__ = ["PatchDiscriminator"]

_WIDEST = 8  # times the base width
_DEVIATION = 0.02  # of initial weights


class PatchDiscriminator(Part):
    """Strided convolutions with leaky ReLUs, then one logit a patch.

    Source: isola2017pix2pix, Appendix 6.1; esser2021vqgan.

    Attributes:
        width: Channels of the first layer; each further one has twice as many, up to eight times.
        layers: Layers that halve sides; two more of stride 1 follow.
        norm: After all convolutions but the first and the last. `batch` is the source's, with which an image's logits
            depend on the batch around it; `group` looks at each image alone.
    """

    kind: Literal["patch"] = "patch"
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    layers: Annotated[int, Field(ge=1)] = 3
    norm: Literal["batch", "group"] = "batch"

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images that have no patch.

        Raises:
            UsageError: Images of `shape`, (C, H, W), are too small.
        """
        least = 3 * 2**self.layers  # two layers of stride 1 take a pixel of a side each, and one has to be left
        if min(shape[1:]) < least:
            raise UsageError(
                f"a discriminator of layers = {self.layers} sees no patch in images of {shape[1]}x{shape[2]}; it needs "
                f"{least} pixels a side, or fewer layers"
            )

    def build(self, channels: int, *, seed: int = 0) -> nn.Sequential:
        """Make it for images of some channels: (B, channels, H, W) -> logits (B, 1, h, w), high for real ones."""
        widths = [self.width * min(2**layer, _WIDEST) for layer in range(self.layers + 1)]
        layers: list[tuple[str, nn.Module]] = []
        with seeded(seed):
            for place, width in enumerate(widths):
                stride, before = (1 if place == self.layers else 2), widths[place - 1] if place else channels
                layers.append((f"conv_{place}", nn.Conv2d(before, width, 4, stride, padding=1, bias=place == 0)))
                if place:
                    norm = nn.BatchNorm2d(width) if self.norm == "batch" else nn.GroupNorm(8, width)
                    layers.append((f"norm_{place}", norm))
                layers.append((f"act_{place}", _Leaky()))
            layers.append(("head", nn.Conv2d(widths[-1], 1, 4, padding=1)))
            made = nn.Sequential(OrderedDict(layers))
            for name, weight in made.named_parameters():
                if weight.ndim == 4:
                    nn.init.normal_(weight, 0.0, _DEVIATION)
                elif "norm" in name and name.endswith("weight"):
                    nn.init.normal_(weight, 1.0, _DEVIATION)
                else:
                    nn.init.zeros_(weight)
        return made


class _Leaky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.2)
