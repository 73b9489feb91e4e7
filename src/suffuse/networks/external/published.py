"""Networks of published shapes, without weights: for counting, and for benchmarks on random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from suffuse.base.errors import UsageError, unknown_name

__all__ = ["PUBLISHED", "Published", "published"]


@dataclass(frozen=True)
class Published:
    """A network's class in diffusers, its configuration and what it is called with.

    Attributes:
        kind: The class.
        config: Its arguments.
        latents: Shape of a sample at its usual resolution, (C, H, W).
        arguments: (batch, device) -> what it is called with beside the samples and the time.
    """

    kind: str
    config: dict[str, Any]  # Any: arguments of an optional package
    latents: tuple[int, int, int]
    arguments: Callable[[int, str], dict[str, Any]]  # Any: as above

    def build(self, device: str = "meta") -> nn.Module:
        """The network with random weights; on the meta device without any memory for them.

        Raises:
            UsageError: diffusers is not installed.
        """
        try:
            import diffusers
        except ImportError:
            raise UsageError("networks of published shapes need diffusers; pip install 'suffuse[diffusers]'") from None
        with torch.device(device):
            model: nn.Module = getattr(diffusers, self.kind)(**self.config)
        return model.eval()

    def call(self, model: nn.Module, batch: int, *, side: int | None = None, device: str = "meta") -> dict[str, Any]:
        """Arguments of one call with random numbers.

        Args:
            model: From `build`.
            batch: Samples.
            side: Height and width of the latents; the usual ones when None.
            device: Where the model is.
        """
        channels, height, width = self.latents
        height, width = side or height, side or width
        name = "sample" if self.kind.startswith("UNet") else "hidden_states"
        samples = torch.randn(batch, channels, height, width, device=device)
        timestep = torch.full((batch,), 500, device=device)
        return {name: samples, "timestep": timestep, **self.arguments(batch, device), "return_dict": False}


def _text(width: int, length: int) -> Callable[[int, str], dict[str, Any]]:
    return lambda batch, device: {"encoder_hidden_states": torch.randn(batch, length, width, device=device)}


def _sdxl(batch: int, device: str) -> dict[str, Any]:
    added = {"text_embeds": torch.randn(batch, 1280, device=device), "time_ids": torch.randn(batch, 6, device=device)}
    return {**_text(2048, 77)(batch, device), "added_cond_kwargs": added}


def _sd3(batch: int, device: str) -> dict[str, Any]:
    return {**_text(4096, 333)(batch, device), "pooled_projections": torch.randn(batch, 2048, device=device)}


def _unet(widths: tuple[int, ...], plain: tuple[int, ...], **config: Any) -> dict[str, Any]:
    """Configuration of a conditional U-Net; `plain` are the levels without attention, 0 the finest."""
    down = ["DownBlock2D" if level in plain else "CrossAttnDownBlock2D" for level in range(len(widths))]
    up = ["UpBlock2D" if level in plain else "CrossAttnUpBlock2D" for level in reversed(range(len(widths)))]
    shape = {"block_out_channels": widths, "down_block_types": tuple(down), "up_block_types": tuple(up)}
    return {"sample_size": 64, "layers_per_block": 2, **shape, **config}


PUBLISHED: dict[str, Published] = {
    # Stable Diffusion 1.5 at 512 x 512.
    "sd15": Published(
        "UNet2DConditionModel",
        _unet((320, 640, 1280, 1280), (3,), cross_attention_dim=768, attention_head_dim=8),
        (4, 64, 64),
        _text(768, 77),
    ),
    # Stable Diffusion 2.1 at 768 x 768.
    "sd21": Published(
        "UNet2DConditionModel",
        {
            **_unet(
                (320, 640, 1280, 1280),
                (3,),
                cross_attention_dim=1024,
                attention_head_dim=(5, 10, 20, 20),
                use_linear_projection=True,
            ),
            "sample_size": 96,
        },
        (4, 96, 96),
        _text(1024, 77),
    ),
    # Stable Diffusion XL at 1024 x 1024.
    "sdxl": Published(
        "UNet2DConditionModel",
        _unet(
            (320, 640, 1280),
            (0,),
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        (4, 128, 128),
        _sdxl,
    ),
    # Class-conditional latent diffusion at 256 x 256: the class is one token.
    "ldm4": Published(
        "UNet2DConditionModel",
        _unet(
            (192, 384, 576, 960), (0,), in_channels=3, out_channels=3, cross_attention_dim=512, attention_head_dim=32
        ),
        (3, 64, 64),
        _text(512, 1),
    ),
    # Stable Diffusion 3 medium at 1024 x 1024.
    "sd3": Published(
        "SD3Transformer2DModel",
        {
            "sample_size": 128,
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 192,
        },
        (16, 128, 128),
        _sd3,
    ),
}
"""By name: sd15, sd21, sdxl, ldm4, sd3."""


def published(name: str) -> Published:
    """A shape by its name.

    Raises:
        UsageError: No such shape.
    """
    if name not in PUBLISHED:
        raise unknown_name("published shape", name, PUBLISHED)
    return PUBLISHED[name]
