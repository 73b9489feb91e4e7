"""Wuerstchen's networks and their rival at full size: weights and multiply-accumulates, without weights."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from pydantic import Field

from suffuse.acceleration.macs import counted_macs
from suffuse.base.conditions import Embedding
from suffuse.claims.exact.base import ExactPart
from suffuse.networks import ConvNeXtPrior, DiffNeXt, Network
from suffuse.networks.external.published import published

__all__ = ["CascadeMacs"]

Role = Literal["prior", "decoder", "both", "rival"]
_TEXT, _DECODED = 77, 12


class CascadeMacs(ExactPart):
    """One network of a text-to-image system at a size of image.

    Values: weights, in 10**9; forward, multiply-accumulates of one evaluation of one image, in 10**12; training, three
    times that (a backward pass costs two forward ones); sampling, of all evaluations of an image, in 10**12.

    Attributes:
        network: `prior` and `decoder` are Wuerstchen's stages C and B as released, `both` is what they come to
            together, with 12 evaluations of B; `rival` has Stable Diffusion 2.1's shape.
        side: Of the image, in pixels.
        evaluations: Of the network for one image, halves of guidance included.
    """

    kind: Literal["cascade_macs"] = "cascade_macs"
    network: Role = "prior"
    side: int = Field(default=1024, ge=64)
    evaluations: int = Field(default=120, ge=1)

    def of(self, seed: int) -> dict[str, float]:
        """Exact: the seed changes nothing.

        Raises:
            UsageError: diffusers, which has the rival's network, is not installed.
        """
        if self.network == "both":
            prior = self.replace(network="prior").of(seed)
            decoder = self.replace(network="decoder", evaluations=_DECODED).of(seed)
            return {name: prior[name] + decoder[name] for name in prior}
        weights, forward = _counted(self.network, self.side)
        found = {"weights": weights / 1e9, "forward": forward / 1e12}
        return {**found, "training": 3 * forward / 1e12, "sampling": self.evaluations * forward / 1e12}


@functools.lru_cache(maxsize=16)
def _counted(network: Role, side: int) -> tuple[int, float]:
    """Weights, and multiply-accumulates of one evaluation."""
    with torch.device("meta"), torch.no_grad():
        if network == "rival":
            shape = published("sd21")
            model = shape.build()
            arguments = shape.call(model, 1, side=side // 8)
            return sum(p.numel() for p in model.parameters()), counted_macs(lambda: model(**arguments))
        code = -(-side * 24 // 1024)  # 24 for 1024 pixels
        if network == "prior":
            live: Network = ConvNeXtPrior(width=1536, depth=32, heads=24, token_width=1280).build((16, code, code))
            x, told = torch.zeros(1, 16, code, code), Embedding(tokens=torch.zeros(1, _TEXT, 1280))
        else:
            live = DiffNeXt(token_width=1024, map_channels=16).build((4, side // 4, side // 4))
            map = torch.zeros(1, 16, code, code)
            x, told = torch.zeros(1, 4, side // 4, side // 4), Embedding(tokens=torch.zeros(1, _TEXT, 1024), map=map)
        live.eval()
        return sum(p.numel() for p in live.parameters()), counted_macs(lambda: live(x, torch.zeros(1), told))
