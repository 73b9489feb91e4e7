"""Our networks against diffusers' with the same weights: equal outputs, and folders that survive both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from safetensors.torch import load_file
from torch import nn

from suffuse.base.conditions import Embedding
from suffuse.interop.diffusers import Imported, read_folder, write_folder
from suffuse.networks.part import seeded

WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALL = {"sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
PLAIN = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
UNETS: dict[str, dict[str, Any]] = {
    "ddpm": {
        **SMALL,
        **PLAIN,
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    "class defaults": {"sample_size": 16, "block_out_channels": (32, 64, 96, 128)},
    "adm": {
        **SMALL,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "block_out_channels": (16, 32, 32),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": 16,
    },
    "adm with a mid norm": {
        **SMALL,
        **PLAIN,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 8,
        "time_embedding_dim": 40,
    },
    "classes": {**SMALL, **PLAIN, "num_class_embeds": 7, "add_attention": False},
    "not square": {
        **SMALL,
        **PLAIN,
        "sample_size": (8, 24),
        "in_channels": 2,
        "out_channels": 5,
        "layers_per_block": 2,
    },
}


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.05 * noise if parameter.ndim > 1 else parameter.data + 0.1 * noise
    return model.eval()


def dit(**options: Any) -> nn.Module:
    defaults = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 3, "num_layers": 3}
    with seeded(0):
        model = DiTTransformer2DModel(**{**defaults, "sample_size": 8, "num_embeds_ada_norm": 5, **options})
    randomised(model)
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return model


def unet(**options: Any) -> nn.Module:
    with seeded(0):
        model = UNet2DModel(**options)
    return randomised(model)


MODELS = [pytest.param(lambda c=c: unet(**c), id=name) for name, c in UNETS.items()] + [
    pytest.param(dit, id="dit"),
    pytest.param(lambda: dit(norm_eps=1e-6, patch_size=4, out_channels=6), id="dit with variances"),
]


def outputs(model: nn.Module, imported: Imported) -> tuple[torch.Tensor, torch.Tensor]:
    """What both make of the same input."""
    x = torch.randn(3, *imported.shape, generator=torch.Generator().manual_seed(1))
    told = torch.tensor([0.0, 17.3, 999.0])
    labels = torch.tensor([0, 3, 4])
    options, cond = {}, None
    if imported.labels is not None:
        options, cond = {"class_labels": labels}, Embedding(vector=imported.labels[labels])
    with torch.no_grad():
        return model(x, told, **options).sample, imported.build()(x, told, cond).value


@pytest.mark.parametrize("make", MODELS)
def test_same_weights_give_the_same_output(make, tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path / "theirs")
    theirs, ours = outputs(model, read_folder(tmp_path / "theirs"))
    assert theirs.abs().max() > 0.5
    assert (ours - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("make", MODELS)
def test_there_and_back_again_is_bit_exact(make, tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path / "theirs")
    imported = read_folder(tmp_path / "theirs")
    notes = write_folder(
        tmp_path / "again",
        imported.network,
        imported.weights,
        shape=imported.shape,
        out_channels=imported.out_channels,
        labels=imported.labels,
    )
    assert notes == ()
    before, after = (load_file(tmp_path / folder / WEIGHTS) for folder in ("theirs", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_folder(tmp_path / "again").network == imported.network
    # diffusers itself must read what we wrote, and mean the same by it.
    with seeded(0):
        restored = type(model).from_pretrained(tmp_path / "again").eval()
    theirs, _ = outputs(model, imported)
    again, _ = outputs(restored, imported)
    assert torch.equal(theirs, again)


def test_the_null_label_of_a_dit_is_the_last_row(tmp_path: Path) -> None:
    model = dit()
    model.save_pretrained(tmp_path / "theirs")
    imported = read_folder(tmp_path / "theirs")
    x, told, null = torch.ones(1, 3, 8, 8), torch.tensor([10.0]), torch.tensor([5])
    with torch.no_grad():
        theirs = model(x, told, class_labels=null).sample
        ours = imported.build()(x, told, Embedding(vector=imported.labels[-1:])).value
    assert (ours - theirs).abs().max() <= 1e-5
