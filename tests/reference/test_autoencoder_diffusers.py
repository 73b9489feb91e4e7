"""Our KL autoencoder against diffusers' with the same weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from suffuse.networks import KLAutoencoder
from suffuse.networks.part import seeded

RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "skip"}


def carried(theirs: dict[str, Tensor], levels: int, blocks: int) -> dict[str, Tensor]:
    """Their weights under our names."""
    renamed: dict[str, str] = {"quant_conv": "to_moments", "post_quant_conv": "from_latent"}
    for side in ("encoder", "decoder"):
        renamed |= {f"{side}.conv_in": f"{side}.stem", f"{side}.conv_norm_out": f"{side}.head.norm"}
        renamed[f"{side}.conv_out"] = f"{side}.head.conv"
        for place, name in enumerate(("mid_in", "mid_out")):
            renamed |= {f"{side}.mid_block.resnets.{place}.{a}": f"{side}.{name}.{b}" for a, b in RESNET.items()}
        renamed[f"{side}.mid_block.attentions.0.group_norm"] = f"{side}.mid_attention.norm"
        renamed[f"{side}.mid_block.attentions.0.to_out.0"] = f"{side}.mid_attention.attend.out"
        way, count, sampler = ("down", blocks, "down") if side == "encoder" else ("up", blocks + 1, "up")
        for level in range(levels):
            there = f"{side}.{way}_blocks.{level}"
            for j in range(count):
                renamed |= {f"{there}.resnets.{j}.{a}": f"{side}.{way}_{level}_{j}.{b}" for a, b in RESNET.items()}
            renamed[f"{there}.{sampler}samplers.0.conv"] = f"{side}.{way}_{level}_sample.conv"
    found = {}
    for name, tensor in theirs.items():
        stem, _, leaf = name.rpartition(".")
        if stem in renamed:
            found[f"{renamed[stem]}.{leaf}"] = tensor
    for side in ("encoder", "decoder"):
        there = f"{side}.mid_block.attentions.0"
        for leaf in ("weight", "bias"):
            parts = [theirs[f"{there}.to_{letter}.{leaf}"] for letter in "qkv"]
            found[f"{side}.mid_attention.attend.qkv.{leaf}"] = torch.cat(parts)
    return found


@pytest.mark.parametrize(("multipliers", "blocks"), [((1, 2), 1), ((1, 2, 3), 2)])
@torch.no_grad()
def test_outputs_are_equal(multipliers: tuple[int, ...], blocks: int) -> None:
    levels = len(multipliers)
    with seeded(0):
        theirs = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(8 * m for m in multipliers),
            layers_per_block=blocks,
            latent_channels=4,
            norm_num_groups=4,
        ).eval()
        x = torch.rand(2, 3, 16, 24) * 2 - 1
    part = KLAutoencoder(channels=8, multipliers=multipliers, blocks=blocks, latent_channels=4, groups=4)
    ours = part.build((3, 16, 24)).eval()
    ours.load_state_dict(carried(theirs.state_dict(), levels, blocks))
    mean, log_variance = ours.moments(x)
    law = theirs.encode(x).latent_dist
    torch.testing.assert_close(mean, law.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_variance, law.logvar, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(mean), theirs.decode(mean).sample, atol=1e-5, rtol=1e-5)
