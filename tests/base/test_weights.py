"""Files of weights: what they keep, and how truncated, tampered, foreign and wrong ones are refused."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from suffuse.base.errors import RunError, UsageError
from suffuse.base.weights import check_state, load_weights, read_safetensors, save_safetensors


def test_ties_views_and_layouts(tmp_path):
    base = torch.arange(24.0)
    stored = {
        "whole": base,
        "tied": base,
        "tied as a parameter": nn.Parameter(base),
        "overlapping": base[4:20],
        "strided": base[::2],
        "transposed": base.reshape(4, 6).T,
        "conjugate": torch.tensor([1 + 2j], dtype=torch.complex64).conj(),
        "video": torch.arange(48.0).reshape(1, 2, 2, 3, 4).contiguous(memory_format=torch.channels_last_3d),
        "empty": torch.empty(0, 3),
        "empty too": torch.empty(0, 3),
        "scalar": torch.tensor(3, dtype=torch.int8),
    }
    path = tmp_path / "a.safetensors"
    save_safetensors(path, stored)
    found = read_safetensors(path)
    assert set(found) == set(stored)
    for name, tensor in stored.items():
        torch.testing.assert_close(found[name], tensor.detach().resolve_conj(), rtol=0, atol=0)
    assert found["tied"] is found["whole"]
    assert found["tied as a parameter"] is found["whole"]
    assert found["overlapping"].data_ptr() != found["whole"].data_ptr()
    assert found["video"].is_contiguous(memory_format=torch.channels_last_3d)
    save_safetensors(path, {"plain": torch.ones(2)})
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses files without it


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_safetensors(path, {"a": torch.arange(6.0), "b": torch.arange(4)})
    return path


def test_a_cut_or_lengthened_file_is_refused_with_byte_counts(weights):
    data = weights.read_bytes()
    for changed in (data[:-3], data + b"xx"):
        weights.write_bytes(changed)
        with pytest.raises(
            RunError, match=rf"model\.safetensors .*has {len(changed)} bytes, its header says {len(data)}"
        ):
            read_safetensors(weights)
    for changed in (b"", data[:5], data[:40]):
        weights.write_bytes(changed)
        with pytest.raises(RunError, match=f"its {len(changed)} bytes have no readable header"):
            read_safetensors(weights)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_tampering_is_refused_or_harmless(weights, at, byte):
    """One changed byte anywhere: either an error of ours, or tensors; never another exception, never a crash."""
    data = bytearray(weights.read_bytes())
    data[at % len(data)] = byte
    path = weights.with_name("tampered.safetensors")
    path.write_bytes(data)
    try:
        read_safetensors(path)
    except (RunError, UsageError) as error:
        assert "tampered.safetensors" in str(error)  # noqa: PT017 (refusal is one of two right answers)


def test_pickles_are_refused_by_name_and_by_content(tmp_path):
    module = {"a": torch.ones(2)}
    torch.save(module, tmp_path / "new.safetensors")
    torch.save(module, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    torch.save(module, tmp_path / "weights.ckpt")
    with zipfile.ZipFile(tmp_path / "any.safetensors", "w") as archive:
        archive.writestr("a", "b")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(
            UsageError, match=rf"{path.name} is a pickle.*convert it with safetensors\.torch\.save_file"
        ):
            read_safetensors(path)
    with pytest.raises(UsageError, match="is not there"):
        read_safetensors(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("length", [0x0280, 0x0380])
def test_a_header_length_that_looks_like_a_pickle_is_read(tmp_path, length):
    """These lengths begin with the bytes of pickle protocols 2 and 3."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode().ljust(length)
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + header + b"\x07")
    assert read_safetensors(tmp_path / "a.safetensors")["a"].tolist() == [7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_values_that_are_not_finite_are_refused_on_request(tmp_path, dtype):
    path = tmp_path / "model.safetensors"
    save_safetensors(path, {"fine": torch.arange(3), "bad": torch.tensor([1.0, math.nan, 2.0]).to(dtype)})
    assert set(read_safetensors(path)) == {"fine", "bad"}
    with pytest.raises(RunError, match="holds NaN or infinity: 1 of 3 values of tensor 'bad'"):
        read_safetensors(path, finite=True)


def test_notes_that_make_no_sense_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for note in ("{", "[]", '{"ties": []}', '{"ties": {"b": "nothing"}}', '{"ties": {"b": []}}'):
        safetensors.torch.save_file({"a": torch.ones(1)}, path, {"suffuse": note})
        with pytest.raises(RunError, match=r"model\.safetensors is broken: its notes or tensors make no sense"):
            read_safetensors(path)


def test_weights_of_another_architecture_change_nothing():
    with torch.random.fork_rng(devices=[]):
        module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    other = {f"{i}.weight": torch.ones(1) for i in range(1, 8)} | {"0.bias": torch.ones(3)}
    with pytest.raises(UsageError) as caught:
        load_weights(module, other, owner="model.safetensors")
    assert str(caught.value) == (
        "model.safetensors do not fit the model: 2 missing (0.weight, 1.bias); "
        "6 unknown (2.weight, 3.weight, 4.weight, 5.weight, ...); "
        "1 of another shape (1.weight (1,) instead of (2, 3)); use the configuration that they were trained with"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    check_state(before, before)


def test_equal_tensors_make_equal_files(tmp_path):
    tied = torch.arange(6.0).reshape(2, 3)
    for tensors in ({"a": tied, "b": torch.ones(2)}, {"a": tied, "b": tied}):
        written = set()
        for i in range(8):
            save_safetensors(tmp_path / f"{i}.safetensors", tensors)
            written.add((tmp_path / f"{i}.safetensors").read_bytes())
        assert len(written) == 1
