"""suffuse convert: a diffusers folder comes in, is sampled, and goes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from suffuse.interop.diffusers import write_folder
from suffuse.networks import UNet

Command = Callable[..., Any]
SHAPE = (3, 8, 8)


def test_a_diffusers_folder_is_converted_sampled_and_converted_back(suffuse: Command, tmp_path: Path) -> None:
    unet = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4)
    theirs = tmp_path / "theirs"
    write_folder(theirs, unet, unet.build(SHAPE, seed=3).state_dict(), shape=SHAPE)
    said = suffuse("convert", theirs, "--to", "suffuse")
    ours = tmp_path / "theirs-suffuse"
    assert (said.code, said.out) == (0, f"{ours}: unet for samples of 3x8x8\n")
    assert "assuming DDPM's process" in said.err
    assert suffuse("sample", ours, "--n", 2, "--nfe", 2).code == 0
    judged = suffuse("eval", ours, "--n", 8)
    assert (judged.code, judged.err) == (2, f"suffuse: {ours} does not say what it was trained on; give --data\n")
    back = tmp_path / "back"
    said = suffuse("convert", ours, "--to", "diffusers", "--out", back)
    assert (said.code, said.out) == (0, f"{back}\n")
    before = load_file(theirs / "diffusion_pytorch_model.safetensors")
    after = load_file(back / "unet" / "diffusion_pytorch_model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def test_what_cannot_be_converted_is_one_line(suffuse: Command, labelled: Path, flowing: Path, tmp_path: Path) -> None:
    said = suffuse("convert", flowing, "--to", "diffusers", "--out", tmp_path / "out")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "path 'flow'" in said.err
    (tmp_path / "file").touch()
    said = suffuse("convert", labelled, "--to", "diffusers", "--out", tmp_path)
    assert (said.code, said.err) == (2, f"suffuse: {tmp_path} exists already; choose another --out\n")
