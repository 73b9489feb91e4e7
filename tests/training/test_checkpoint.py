"""Checkpoints: bit-exact round trips, and what survives kills, full disks, lost flushes."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError
from suffuse.base.weights import load_weights
from suffuse.training import checkpoint
from suffuse.training.checkpoint import (
    Found,
    find_latest,
    latest,
    load_checkpoint,
    save_checkpoint,
)

DTYPES = (
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.bool,
    torch.uint8,
    torch.int64,
    torch.float8_e4m3fn,
)


def bits(tensor: Tensor) -> bytes:
    """The values' bits in order: equal for equal NaNs too, unlike torch.equal."""
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""


def same(a: object, b: object) -> bool:
    """Equal in value, type, order of keys and bits."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and (a.dtype, a.shape, bits(a)) == (b.dtype, b.shape, bits(b))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)  # tells -0.0 from 0.0 and finds NaN equal to NaN


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Random bits of any dtype (so NaNs and denormals too), in 0 to 4 dimensions, some empty, some transposed."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    count = math.prod(shape) * dtype.itemsize
    raw = list(draw(st.binary(min_size=count, max_size=count)))
    if dtype is torch.bool:
        raw = [byte % 2 for byte in raw]
    tensor = torch.tensor(raw, dtype=torch.uint8).view(dtype).reshape(shape)
    return tensor.mT if tensor.ndim >= 2 and draw(st.booleans()) else tensor


keys = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=4)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), tensors())
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=2).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(st.integers(0, 9), inner, max_size=2),
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.dictionaries(st.sampled_from(["model", "ema", "step", "data.train"]), trees, max_size=4))
def test_any_state_comes_back_bit_for_bit(tmp_path_factory, state):
    folder = save_checkpoint(tmp_path_factory.mktemp("run"), 7, state)
    assert same(load_checkpoint(folder), state)


def test_a_trained_model_and_its_optimiser_go_on_as_if_nothing_had_happened(tmp_path):
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        return module.to(memory_format=torch.channels_last), torch.optim.AdamW(module.parameters(), lr=0.1)

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        images = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)
        optimizer.zero_grad()
        module(images).square().mean().backward()
        optimizer.step()

    module, optimizer = make()
    step(module, optimizer)
    state = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}
    folder = save_checkpoint(tmp_path, 1, state)
    step(module, optimizer)

    again, its_optimizer = make()
    found = load_checkpoint(folder)
    load_weights(again, found["model"])
    its_optimizer.load_state_dict(found["optimizer"])
    step(again, its_optimizer)
    assert found["model"]["0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert same(dict(again.state_dict()), dict(module.state_dict()))
    # other programs find plain safetensors under the module's own names
    assert set(safetensors.torch.load_file(folder / "model.safetensors")) == set(module.state_dict())


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": object()}, "state value 'x/a' has type object; make it"),
        ([b"raw"], "state value 'x/0' has type bytes; make it"),
        ({(1, 2): 3}, r"state key \(1, 2\) in 'x' is neither text"),
        ({"a/b": torch.ones(1), "a": {"b": torch.ones(1)}}, "two tensors named 'x/a/b'"),
        (torch.ones(2, device="meta"), "layout torch.strided on meta; give a dense tensor"),
        (torch.eye(2).to_sparse(), "layout torch.sparse_coo"),
        (torch.ones(1, dtype=torch.complex128), "cannot hold values of torch.complex128"),
        ({"__metadata__": torch.ones(1)}, "'__metadata__' is taken by the safetensors format"),
    ],
)
def test_what_cannot_be_stored_is_named(tmp_path, value, told):
    with pytest.raises(UsageError, match=told):
        save_checkpoint(tmp_path, 1, {"x": value})
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_is_refused(tmp_path):
    for step, keep in ((-1, 2), (1, 0)):
        with pytest.raises(UsageError, match=f"step is {step} and keep is {keep}"):
            save_checkpoint(tmp_path, step, {}, keep=keep)
    with pytest.raises(UsageError, match=r"'\.\./x' cannot name a file"):
        save_checkpoint(tmp_path, 1, {"../x": torch.ones(1)})
    save_checkpoint(tmp_path, 1, {"a": 1})
    with pytest.raises(UsageError, match="step-00000001 exists and is never overwritten"):
        save_checkpoint(tmp_path, 1, {"a": 2})
    with pytest.raises(UsageError, match="step-00000009 is not there"):
        load_checkpoint(tmp_path / "step-00000009")


# Which checkpoint is the latest, and which go


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def save(root: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(root, step, {"model": {"w": torch.full((64,), float(step))}, "step": step}, keep=keep)


def test_only_the_newest_stay(tmp_path):
    for step in (1, 5, 99_999_999, 100_000_000):  # the last has nine digits: names do not sort, numbers do
        folder = save(tmp_path, step)
        assert latest(tmp_path) == folder
    assert names(tmp_path) == ["step-100000000", "step-99999999"]
    save(tmp_path, 100_000_001, keep=1)
    assert names(tmp_path) == ["step-100000001"]
    assert find_latest(tmp_path / "nowhere") == Found(None)


def test_a_broken_checkpoint_is_named_and_skipped_and_takes_no_place(tmp_path):
    old, broken = save(tmp_path, 1), save(tmp_path, 2)
    os.truncate(broken / "model.safetensors", 30)
    (tmp_path / "step-00000007").write_text("a file, not a checkpoint")
    found = find_latest(tmp_path)
    assert found.path == old
    [(path, reason)] = found.skipped
    assert path == broken
    assert "model.safetensors has 30 bytes, its manifest says" in reason
    with pytest.raises(RunError, match=r"step-00000002 is broken: model\.safetensors"):
        load_checkpoint(broken)

    save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000003", "step-00000007"]


def test_pruning_never_takes_the_last_whole_one(tmp_path):
    """The newest by number is rotten; the one saved after going back must stay, even alone."""
    save(tmp_path, 1)
    later = save(tmp_path, 9)
    (later / "state.json").write_bytes(bytes((later / "state.json").stat().st_size))  # the size still fits
    new = save(tmp_path, 5, keep=1)
    assert latest(tmp_path) == new
    assert names(tmp_path) == ["step-00000005", "step-00000009"]  # later steps are not this save's to remove
    assert same(load_checkpoint(save(tmp_path, 9, keep=1))["step"], 9)  # a broken one of the same step is replaced


def test_a_newer_version_stops_instead_of_going_back(tmp_path, monkeypatch):
    """Skipping it would silently throw away the work since the checkpoint before."""
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "STATE_VERSION", 2)
    newer = save(tmp_path, 2)
    monkeypatch.setattr(checkpoint, "STATE_VERSION", 1)
    with pytest.raises(UsageError, match=r"state\.json has format_version 2, written by a newer suffuse"):
        load_checkpoint(newer)
    manifest = files.read_json(newer / "manifest.json")
    files.write_json(newer / "manifest.json", {**manifest, "format_version": 2})
    with pytest.raises(UsageError, match=r"manifest\.json has format_version 2, written by a newer suffuse"):
        latest(tmp_path)


def test_a_sealed_folder_that_is_no_checkpoint(tmp_path):
    with files.staged(tmp_path / "step-00000001") as staging:
        files.write_json(staging / "other.json", {})
    with pytest.raises(RunError, match=r"is no checkpoint: state\.json is missing"):
        load_checkpoint(tmp_path / "step-00000001")
    with files.staged(tmp_path / "step-00000002") as staging:
        tree = {"model": {"$tensor": ["model", "w"]}}
        files.write_json(staging / "state.json", {"format_version": 1, "step": 2, "state": tree})
    with pytest.raises(RunError, match=r"state\.json is broken: it does not fit the tensors"):
        load_checkpoint(tmp_path / "step-00000002")


# Faults while saving


def test_a_full_disk_at_any_byte_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    old = save(tmp_path, 1)
    size = sum(path.stat().st_size for path in old.iterdir())
    write = files._write
    for room in range(0, size, 13):  # falls into every file, header and manifest
        left = [room]

        def fill(fd: int, data: bytes, left: list[int] = left) -> None:
            write(fd, data[: left[0]])
            left[0] -= len(data)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(files, "_write", fill)
            with pytest.raises(RunError, match=r"cannot write .*step-00000002.*: the disk is full; free some space"):
                save(tmp_path, 2)
        assert names(tmp_path) == ["step-00000001"]
    assert latest(tmp_path) == old
    save(tmp_path, 2)  # and with room again, the same save succeeds


@pytest.mark.parametrize("lost", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["zeroed", "cut"])
def test_a_lost_flush_falls_back(tmp_path, monkeypatch, lost, how):
    """The disk said that it had flushed, and had not: after the power cut the names are there, the content is not."""
    old = save(tmp_path, 1)
    monkeypatch.setattr(files, "_sync", lambda fd: None)
    new = save(tmp_path, 2)
    size = (new / lost).stat().st_size
    (new / lost).write_bytes(bytes(size) if how == "zeroed" else b"")
    found = find_latest(tmp_path)
    assert found.path == old
    assert found.skipped[0][0] == new
    assert lost in found.skipped[0][1]


def test_fifty_kills_lose_at_most_the_interval_being_saved(tmp_path):
    """The harness also checks after each kill that everything with a final name is whole and right."""
    command = [sys.executable, Path(__file__).with_name("kill_writer.py"), "kill", tmp_path, "--kills", "50"]
    tally = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert tally["kills"] == 50
    assert tally["most_lost"] <= 1
    assert tally["amid_a_save"] > 5, "too few kills hit a save for the test to mean anything"
    assert tally["saves"] > 10, "the writers hardly got on"
    files.clean_staging(tmp_path)
    assert not list(tmp_path.glob(".staging-*"))
