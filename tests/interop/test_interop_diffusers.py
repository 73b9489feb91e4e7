"""Import and export of diffusers folders: what is refused, what is said, what is left behind."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError
from suffuse.interop.diffusers import read_folder, write_folder
from suffuse.networks import MLP, DiT, UNet

UNET = UNet(channels=16, multipliers=(1, 2), blocks=1, groups=8, zero_init=False)
DIT = DiT(width=16, depth=2, heads=2, freq_shift=1)
SHAPE = (3, 8, 8)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def export(folder: Path, part: UNet | DiT = UNET, **options: Any) -> Path:
    write_folder(folder, part, part.build(SHAPE).state_dict(), shape=SHAPE, **options)
    return folder


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("center_input_sample", True),
        ("time_embedding_type", "fourier"),
        ("mid_block_type", None),
        ("mid_block_scale_factor", 1.4),
        ("act_fn", "gelu"),
        ("class_embed_type", "timestep"),
        ("resnet_time_scale_shift", "spatial"),
        ("attn_norm_num_groups", 4),
        ("skip_scale", 0.7),
        ("down_block_types", ["SkipDownBlock2D", "DownBlock2D"]),
        ("up_block_types", ["UpBlock2D", "UpBlock2D"]),
    ],
)
def test_settings_that_we_do_not_have_are_refused_by_name_and_value(tmp_path: Path, key: str, value: Any) -> None:
    folder = export(tmp_path / "model")
    edit(folder, **{key: value})
    shown = value if not isinstance(value, list) or key == "up_block_types" else value[0]
    with pytest.raises(UsageError) as caught:
        read_folder(folder)
    assert f"UNet2DModel: {key} = {shown!r} is not supported" in str(caught.value)


def test_mixed_ways_of_changing_the_resolution_are_refused(tmp_path: Path) -> None:
    folder = export(tmp_path / "model")
    edit(folder, up_block_types=["ResnetUpsampleBlock2D", "AttnUpBlock2D"][::-1], upsample_type="resnet")
    with pytest.raises(UsageError, match=r"\['conv', 'resnet'\] is not supported; it must be the same at every level"):
        read_folder(folder)


def test_dits_whose_blocks_disagree_are_refused(tmp_path: Path) -> None:
    folder = export(tmp_path / "model", DIT)
    weights = load_file(folder / WEIGHTS)
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.weight"
    save_file({**weights, name: weights[name] + 1e-7}, folder / WEIGHTS)
    with pytest.raises(UsageError, match=rf"{name} differs from .*blocks.0.*cannot be imported"):
        read_folder(folder)
    table = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    save_file({**weights, table: weights[table] + 1e-7}, folder / WEIGHTS)
    with pytest.raises(UsageError, match=rf"{table} is missing or differs"):
        read_folder(folder)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    folder = export(tmp_path / "model")
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UsageError, match=r"diffusion_pytorch_model\.bin is a pickle.*safe_serialization=True"):
        read_folder(folder)


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing/config\.json does not exist"):
        read_folder(tmp_path / "nothing")
    folder = export(tmp_path / "model")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=rf"is broken: it has {len(whole) // 2} bytes, its header says {len(whole)}"):
        read_folder(folder)
    (folder / WEIGHTS).write_bytes(whole)
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, "extra.weight": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(UsageError, match=r"1 weights without a place, first 'extra\.weight'"):
        read_folder(folder)
    save_file({name: tensor for name, tensor in weights.items() if name != "conv_in.bias"}, folder / WEIGHTS)
    with pytest.raises(UsageError, match=r"no weight 'conv_in\.bias'"):
        read_folder(folder)
    save_file(weights, folder / WEIGHTS)
    edit(folder, block_out_channels=[16, 48])
    with pytest.raises(UsageError, match=r"config\.json asks for"):
        read_folder(folder)
    edit(folder, _class_name="UNet2DConditionModel")
    with pytest.raises(
        UsageError, match="model class 'UNet2DConditionModel' does not exist; did you mean 'UNet2DModel'"
    ):
        read_folder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json is not readable JSON"):
        read_folder(folder)


def test_attention_names_of_old_checkpoints_are_read(tmp_path: Path) -> None:
    folder = export(tmp_path / "model")
    expected = read_folder(folder).weights
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    weights = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        for new, legacy in old.items():
            name = name.replace(new, legacy)
        weights[name] = tensor
    assert any(".proj_attn." in name for name in weights)
    save_file(weights, folder / WEIGHTS)
    found = read_folder(folder).weights
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_pipelines_carry_their_scheduler(tmp_path: Path) -> None:
    scheduler = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "prediction_type": "v_prediction"}
    folder = export(tmp_path / "pipeline", scheduler=scheduler)
    assert sorted(item.name for item in folder.iterdir()) == ["model_index.json", "scheduler", "unet"]
    imported = read_folder(folder)
    assert imported.scheduler == scheduler
    assert imported.network == UNET.replace(zero_init=True)  # the start of training is not part of a checkpoint
    assert imported.shape == SHAPE
    assert imported.pipeline["unet"] == ["diffusers", "UNet2DModel"]
    alone = read_folder(folder / "unet")
    assert alone.scheduler is None
    assert not alone.pipeline


def test_sizes_that_the_config_leaves_open_are_asked_for(tmp_path: Path) -> None:
    folder = export(tmp_path / "model")
    edit(folder, sample_size=None)
    with pytest.raises(UsageError, match=r"no sample_size.*size=\(H, W\)"):
        read_folder(folder)
    assert read_folder(folder, size=(8, 16)).shape == (3, 8, 16)


def test_classes_get_a_zero_row_for_none_and_its_loss_is_said(tmp_path: Path) -> None:
    labels = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    weights = UNET.build(SHAPE).state_dict()
    notes = write_folder(tmp_path / "model", UNET, weights, shape=SHAPE, labels=labels)
    assert len(notes) == 1
    assert "embedding of 'no class' is not zero" in notes[0]
    found = read_folder(tmp_path / "model").labels
    assert torch.equal(found[:-1], labels[:-1])
    assert not found[-1].any()
    assert write_folder(tmp_path / "again", UNET, weights, shape=SHAPE, labels=found) == ()


def test_a_dit_without_classes_gets_one_that_adds_nothing(tmp_path: Path) -> None:
    notes = write_folder(tmp_path / "model", DIT, DIT.build(SHAPE).state_dict(), shape=SHAPE)
    assert "whose embedding is zero" in notes[0]
    assert not read_folder(tmp_path / "model").labels.any()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (UNET.replace(max_period=100), "UNet: max_period = 100.0 is not supported; it must be 10000"),
        (UNET.replace(mid_attention_norm=False), "UNet: mid_attention_norm = False is not supported"),
        (UNET.replace(multipliers=(2, 2)), r"UNet: multipliers = \(2, 2\) is not supported"),
        (DIT.replace(freq_shift=0), "DiT: freq_shift = 0 is not supported; it must be 1"),
        (DIT.replace(mlp_ratio=2), "DiT: mlp_ratio = 2.0 is not supported; it must be 4"),
    ],
)
def test_what_diffusers_cannot_express_is_refused(tmp_path: Path, part: UNet | DiT, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export(tmp_path / "model", part)
    assert list(tmp_path.iterdir()) == []


def test_exports_never_overwrite_and_leave_nothing_behind_when_they_fail(tmp_path: Path) -> None:
    folder = export(tmp_path / "model")
    with pytest.raises(UsageError, match="model exists; choose another folder"):
        export(folder)
    with pytest.raises(UsageError, match="no class for the network 'mlp'"):
        write_folder(tmp_path / "points", MLP(), {}, shape=SHAPE)
    with pytest.raises(UsageError, match="not as a pipeline"):
        export(tmp_path / "pipeline", DIT, scheduler={"_class_name": "DDPMScheduler"})
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("full_at", range(4))
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: int) -> None:
    whole, written = files._write, []

    def write(fd: int, data: bytes) -> None:
        if len(written) == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(len(data))
        whole(fd, data)

    monkeypatch.setattr(files, "_write", write)
    with pytest.raises(RunError, match="the disk is full; free some space"):
        export(tmp_path / "pipeline", scheduler={"_class_name": "DDPMScheduler"})
    assert list(tmp_path.iterdir()) == []
