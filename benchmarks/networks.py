"""The networks that are measured, and the same ones in diffusers with the same weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from suffuse.interop.diffusers import write_folder
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.networks import UNet
from suffuse.process import VP, Eps

__all__ = ["DIGITS", "RGB32", "model_of", "twin_of"]

RGB32 = (
    UNet(channels=64, multipliers=(1, 2, 2), blocks=2, attention_levels=(1,), groups=32, zero_init=False),
    (3, 32, 32),
)
DIGITS = (
    UNet(
        channels=32, multipliers=(1, 2), blocks=1, attention_levels=(), mid_attention=False, groups=8, zero_init=False
    ),
    (1, 8, 8),
)


def model_of(network: UNet, shape: tuple[int, ...]) -> Denoiser:
    """A denoiser with fresh weights on DDPM's process."""
    return ModelConfig(network=network, shape=shape, path=VP(steps=1000), prediction=Eps()).build().eval()


def twin_of(model: Denoiser) -> nn.Module:
    """The diffusers UNet2DModel with the same weights."""
    from diffusers import UNet2DModel

    config = model.config
    assert config is not None
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "twin"
        channels, height, width = config.shape
        write_folder(target, config.network, model.network.state_dict(), shape=(channels, height, width))
        twin: nn.Module = UNet2DModel.from_pretrained(target)
    x, t = torch.randn(2, *config.shape, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 700])
    with torch.no_grad():
        gap = (twin(x, t).sample - model.network(x, t.float()).value).abs().max().item()
    assert gap < 1e-4, f"the twin's output differs by {gap}"
    return twin.eval()
