"""Our KL autoencoder against diffusers' with the same weights: equal outputs, and folders that survive both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from suffuse.base.errors import UsageError
from suffuse.interop.convert import to_diffusers, to_suffuse
from suffuse.models.pretrained import load_codec
from suffuse.networks.part import seeded

SMALL: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "sample_size": 16,
}
THEIRS: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "three levels of uneven widths": {
        **SMALL,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 12, 20),
        "layers_per_block": 2,
        "latent_channels": 3,
        "in_channels": 1,
        "out_channels": 1,
    },
    "without convolutions over the moments, as Flux has it": {
        **SMALL,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "latent_channels": 5,
    },
    "without attention": {**SMALL, "mid_block_add_attention": False},
}


def made(options: dict[str, Any], folder: Path) -> AutoencoderKL:
    with seeded(0):
        theirs = AutoencoderKL(**options).eval()
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("options", THEIRS.values(), ids=THEIRS)
@torch.no_grad()
def test_outputs_are_equal(options: dict[str, Any], tmp_path: Path) -> None:
    theirs = made(options, tmp_path / "theirs")
    said: list[str] = []
    to_suffuse(tmp_path / "theirs", tmp_path / "ours", note=said.append)
    ours = load_codec(tmp_path / "ours")
    assert ["scaling_factor 0.18215 is left behind" in line for line in said] == [True]
    x = torch.rand(2, options.get("in_channels", 3), 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, log_variance = ours.network.moments(x)
    law = theirs.encode(x).latent_dist
    torch.testing.assert_close(mean, law.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_variance, law.logvar, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(mean), theirs.decode(mean).sample, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_codec_comes_back_with_what_was_measured(tmp_path: Path) -> None:
    made(SMALL, tmp_path / "theirs")
    to_suffuse(tmp_path / "theirs", tmp_path / "ours")
    to_diffusers(tmp_path / "ours", tmp_path / "again")
    first, again = (AutoencoderKL.from_pretrained(tmp_path / name).state_dict() for name in ("theirs", "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (config["latents_mean"], config["latents_std"]) == ([0.0] * 4, [1.0] * 4)


def test_what_our_network_does_not_have_is_named(tmp_path: Path) -> None:
    made({**SMALL, "act_fn": "relu"}, tmp_path / "relu")
    with pytest.raises(UsageError, match="act_fn = 'relu' has no counterpart"):
        to_suffuse(tmp_path / "relu", tmp_path / "ours")
    made(SMALL, tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config | {"layers_per_block": 2}))
    with pytest.raises(UsageError, match="the checkpoint has no weight"):
        to_suffuse(tmp_path / "theirs", tmp_path / "ours")
