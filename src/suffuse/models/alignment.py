"""Alignment: captions and images as vectors of one space, where what belongs together is near."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.conditions import Conditions
from suffuse.base.part import Part
from suffuse.models.text import Text, TextEncoder, mean_token
from suffuse.networks import AutoencoderNetwork, Compressor
from suffuse.networks.part import seeded

__all__ = ["Alignment", "AlignmentConfig"]

_TEMPERATURE, _COLDEST = 0.07, 0.01


class Alignment(nn.Module):
    """A text encoder and an image encoder with a space in common.

    Source: radford2021clip, Section 2.3 and Figure 3, for the two towers and the learned temperature. The text's vector
    is the mean of its tokens here: generators read all of them, so none shall stand for the others.

    Args:
        text: Reads captions.
        network: Encodes images, (B, C, H, W) -> (B, c, h, w).
        channels: c.
        width: Of the space.
    """

    config: AlignmentConfig | None = None

    def __init__(self, text: TextEncoder, network: AutoencoderNetwork, channels: int, width: int) -> None:
        super().__init__()
        self.text, self.network = text, network
        self.of_text = nn.Linear(text.part.width, width, bias=False)
        self.of_image = nn.Linear(channels, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(_TEMPERATURE)))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.log_scale.device

    @property
    def scale(self) -> Tensor:
        """Factor on cosines, one over the temperature."""
        return self.log_scale.exp()

    @torch.no_grad()
    def warm(self) -> None:
        """Bring the temperature back to 0.01, as in the source, if training has made it colder."""
        self.log_scale.clamp_(max=-math.log(_COLDEST))

    def captions(self, cond: Conditions, batch: int) -> Tensor:
        """Unit vectors of captions, (B, width)."""
        read = self.text(cond, batch)
        assert read.tokens is not None
        return F.normalize(self.of_text(mean_token(read.tokens, read.tokens_mask)), dim=1)

    def images(self, x: Tensor) -> Tensor:
        """Unit vectors of images in [-1, 1], (B, C, H, W) -> (B, width)."""
        return F.normalize(self.of_image(self.network.moments(x)[0].mean((2, 3))), dim=1)


class AlignmentConfig(Part):
    """An alignment as plain data; what its `config.json` holds.

    Attributes:
        text: The text encoder.
        network: The image encoder.
        width: Of the space.
        shape: Of an image, (C, H, W).
        weights: Name of what `model.safetensors` holds: an EMA's name, or `raw`.
        others: Names of the other averages, in `ema/`.
        step: Training steps behind the weights.
    """

    format_version: int = 1
    kind: Literal["alignment"] = "alignment"
    text: Text
    network: Compressor = Compressor()
    width: int = Field(default=64, ge=1)
    shape: tuple[int, ...] = Field(min_length=3, max_length=3)
    weights: str = "raw"
    others: tuple[str, ...] = ()
    step: int = Field(default=0, ge=0)

    def facts(self) -> dict[str, str]:
        """What stands on the model card, by name."""
        return {"text": f"{self.text.depth} layers of {self.text.width}", "images": self.network.kind}

    def build(self, *, seed: int = 0) -> Alignment:
        """Make the model with fresh weights; equal seeds give equal weights.

        Raises:
            UsageError: The network does not fit the images.
        """
        text = self.text.build(0)
        assert isinstance(text, TextEncoder)
        network = self.network.build(self.shape, seed=seed)
        with seeded(seed):
            model = Alignment(text, network, self.network.latent_channels, self.width)
        model.config = self
        return model
