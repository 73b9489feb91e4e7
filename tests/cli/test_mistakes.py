"""Exit codes: 2 and one line for a mistake, 1 for broken files, 130 and 143 for signals; a bug keeps its traceback."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from suffuse.base.errors import RunError, UsageError
from suffuse.base.weights import read_safetensors, save_safetensors
from suffuse.cli import console
from suffuse.tasks import generate
from suffuse.training.signals import Stopped

Command = Callable[..., Any]


def mistake(said: Any, *words: str) -> None:
    """Exit code 2, nothing on standard output, and the last line of standard error holds all words."""
    assert said.code == 2, said.err
    assert said.out == ""
    assert said.err.count("\n") == 1, f"one line, not {said.err!r}"
    assert said.err.startswith("suffuse: ")
    for word in words:
        assert word in said.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["smaple"], ["smaple", "sample"]),
        (["sample"], ["run"]),
        (["sample", "RUN", "--setps", "3"], ["--setps"]),
        (["sample", "RUN", "--n", "many"], ["--n", "integer"]),
        (["list", "solver"], ["solver", "solvers"]),
        (["convert", "RUN"], ["--to"]),
        (["convert", "RUN", "--to", "flax"], ["flax", "diffusers", "suffuse"]),
    ],
)
def test_words_that_the_command_line_does_not_know(
    suffuse: Command, labelled: Path, words: Sequence[str], told: Sequence[str]
) -> None:
    mistake(suffuse(*(str(labelled) if word == "RUN" else word for word in words)), *told, "--help")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digits-etsmd"], ["recipe 'digits-etsmd'", "did you mean 'digits-etsdm'?"]),
        (["nowhere/recipe.yaml"], ["nowhere/recipe.yaml does not exist"]),
        (["digits-ddpm", "stpes=3"], ["'stpes'", "did you mean 'steps'?"]),
        (["digits-ddpm", "optimiser.lrr=1"], ["'optimiser.lrr'", "did you mean 'lr'?"]),
        (["digits-ddpm", "steps=0"], ["training.steps", "0", "greater than or equal to 1"]),
        (["digits-ddpm", "batch=-4"], ["training.batch", "-4"]),
        (["digits-ddpm", "steps"], ["'steps' is not key=value", "steps=200"]),
        (["digits-ddpm", "path.schedule=linaer"], ["schedule", "linaer", "'linear'"]),
        (["digits-ddpm", "sampling.solver=ddimm"], ["solver 'ddimm'", "did you mean 'ddim'?"]),
        (["digits-ddpm", "data=digitz"], ["data 'digitz'", "did you mean 'digits'?"]),
        (["digits-ddpm", "path.zero_terminal_snr=true"], ["prediction 'eps'", "path 'vp'", "use prediction v"]),
        (["digits-ddpm", "--resume", "out=RUNS/none"], ["no run to resume", "RUNS/none", "leave --resume out"]),
        (["digits-ddpm", "out=RUNS"], ["RUNS exists already", "--resume"]),
        (["digits-ddpm", "device=cuda:9", "out=RUNS/new"], ["'cuda:9'"]),
    ],
)
def test_mistakes_in_training(
    suffuse: Command, labelled: Path, words: Sequence[str], told: Sequence[str], tmp_path: Path
) -> None:
    (tmp_path / "here").touch()
    said = suffuse("train", *(word.replace("RUNS", str(tmp_path)) for word in words))
    mistake(said, *(word.replace("RUNS", str(tmp_path)) for word in told))
    assert [path.name for path in tmp_path.iterdir()] == ["here"], "a mistake leaves nothing behind"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--n", "0"], ["n is 0", "at least one"]),
        (["--n", "-3"], ["n is -3"]),
        (["--first", "-1"], ["--first", "greater than or equal to 0"]),
        (["--first", "9" * 30], ["--first", "less than or equal to"]),
        (["--batch", "0"], ["batch", "0"]),
        (["--precision", "half"], ["precision", "'float32' or 'bfloat16'", "'half'"]),
        (["--nfe", "0"], ["nfe is 0", "at least 1"]),
        (["--steps", "0"], ["steps", "0"]),
        (["--nfe", "5", "--steps", "5"], ["nfe and steps", "give one"]),
        (["--grid", "uniform", "--nfe", "5000"], ["grid.steps is 5000", "1000 indices"]),
        (["--solver", "dpmp"], ["solver 'dpmp'", "did you mean 'dpmpp'?"]),
        (["--solver", "{kind: ddim, etta: 1}"], ["'etta'", "did you mean 'eta'?"]),
        (["--solver", "{kind: ddim, eta: 2}"], ["eta", "2"]),
        (["--solver", "{kind: ddim"], ["is not YAML", "{kind: ddim, eta: 1}"]),
        (["--grid", "karas"], ["grid 'karas'", "did you mean 'karras'?"]),
        (["--grid", "{kind: karras, sigma_max: 1.0e+4}"], ["leaves the path 'vp'", "sigma_max"]),
        (["--label", "0O"], ["class '0O'", "there are: 0, 1"]),
        (["--weights", "emma_10"], ["average 'emma_10'", "did you mean 'ema_10'?", "ema_1000"]),
        (["--device", "cuda:9"], ["device 'cuda:9'", "cpu"]),
        (["--device", "gpu"], ["device 'gpu'", "cpu"]),
    ],
)
def test_mistakes_in_sampling(
    suffuse: Command, labelled: Path, options: Sequence[str], told: Sequence[str], tmp_path: Path
) -> None:
    mistake(suffuse("sample", labelled, "--out", tmp_path, *options), *told)
    assert not list(tmp_path.iterdir()), "a mistake draws nothing"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cfg", "2"], ["cfg needs a conditional model", "leave cfg out"]),
        (["--label", "3"], ["label '3'", "knows no classes"]),
        (["--solver", "euler"], ["solver 'euler'", "path 'flow'", "variable: time"]),
        (["--grid", "{kind: uniform, spacing: leading}"], ["spacing 'leading'", "path 'flow'", "trailing"]),
        (["--grid", "karras"], ["grid 'karras'", "path 'flow'", "sigma_max"]),
    ],
)
def test_a_flow_without_conditions_refuses_what_it_cannot_do(
    suffuse: Command, flowing: Path, options: Sequence[str], told: Sequence[str]
) -> None:
    mistake(suffuse("sample", flowing, *options), *told)


def test_mistakes_in_judging(suffuse: Command, labelled: Path, flowing: Path, tmp_path: Path) -> None:
    mistake(suffuse("eval", labelled, "--n", "3"), "n is 3", "at least 6")
    mistake(suffuse("eval", labelled, "--data", "shapez"), "data 'shapez'", "did you mean 'shapes'?")
    mistake(suffuse("eval", labelled, "--data", "rings"), "(1, 8, 8)", "(2,)")
    mistake(suffuse("eval", labelled, "--data", tmp_path), str(tmp_path))
    mistake(suffuse("compare", labelled, "--nfe", "5,x"), "--nfe '5,x'", "5,10,20")
    mistake(suffuse("compare", labelled, "--nfe", ""), "nothing to compare")
    mistake(suffuse("compare", labelled, "--nfe", "0,5"), "nfe is 0")
    mistake(suffuse("compare", labelled, flowing, "--solver", "dim"), "solver 'dim'", "did you mean 'ddim'?")
    assert not (labelled / "evaluation").exists()
    assert not (labelled / "comparison.json").exists()


@pytest.mark.parametrize("command", ["sample", "eval", "compare"])
def test_a_run_that_is_not_there_gets_the_nearest_one(suffuse: Command, labelled: Path, command: str) -> None:
    missing = labelled.with_name("labeled")
    mistake(suffuse(command, missing), f"run '{missing}' does not exist", f"did you mean '{labelled}'?")


def test_folders_that_hold_no_model(suffuse: Command, tmp_path: Path) -> None:
    mistake(suffuse("sample", tmp_path), str(tmp_path), "config.json is missing", "folder of a run")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    mistake(suffuse("sample", tmp_path), "diffusers", f"suffuse convert {tmp_path} --to suffuse")
    mistake(suffuse("convert", tmp_path / "none", "--to", "suffuse"), "none is not a folder")


@pytest.fixture
def copy(labelled: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be broken."""
    return Path(shutil.copytree(labelled, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints")))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_configuration_of_a_newer_version_is_refused(suffuse: Command, copy: Path) -> None:
    edit_config(copy, format_version=99)
    mistake(suffuse("sample", copy), str(copy / "config.json"), "format_version 99", "newer", "update")


def test_a_configuration_with_an_unknown_key_or_part_is_refused(suffuse: Command, copy: Path) -> None:
    before = (copy / "config.json").read_text()
    edit_config(copy, sigma_dat=1.0)
    mistake(suffuse("sample", copy), "no key 'sigma_dat'", "did you mean 'sigma_data'?")
    (copy / "config.json").write_text(before)
    edit_config(copy, path={"kind": "vpp"})
    mistake(suffuse("sample", copy), "path 'vpp' does not exist", "did you mean 'vp'?")


def test_a_pickle_in_the_place_of_weights_is_refused(suffuse: Command, copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.unlink()
    torch.save({"network.weight": torch.zeros(2)}, weights)
    mistake(suffuse("sample", copy), str(weights), "is a pickle", "weights_only=True")
    weights.rename(copy / "pytorch_model.bin")
    mistake(suffuse("sample", copy), "model.safetensors is missing", "pytorch_model.bin is a pickle", "safetensors")


def test_weights_of_another_architecture_are_told_apart(suffuse: Command, copy: Path) -> None:
    weights = copy / "model.safetensors"
    tensors = read_safetensors(weights)
    name = next(iter(tensors))
    save_safetensors(weights, {**{k: v for k, v in tensors.items() if k != name}, "extra.weight": torch.zeros(2)})
    mistake(suffuse("sample", copy), str(weights), f"1 missing ({name})", "1 unknown (extra.weight)")
    save_safetensors(weights, {**tensors, name: torch.zeros(5)})
    mistake(suffuse("sample", copy), f"1 of another shape ({name} (5,) instead of {tuple(tensors[name].shape)})")


def broken(said: Any, *words: str) -> None:
    """Exit code 1 and one line that holds all words."""
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("suffuse: ")
    assert said.err.count("\n") == 1
    for word in words:
        assert word in said.err


@pytest.mark.parametrize("change", [-7, 5], ids=["truncated", "trailing bytes"])
def test_weights_of_the_wrong_length_are_refused_with_both_lengths(suffuse: Command, copy: Path, change: int) -> None:
    weights = copy / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:change] if change < 0 else data + bytes(change))
    broken(
        suffuse("sample", copy), str(weights), f"it has {len(data) + change} bytes, its header says {len(data)}", "copy"
    )


def test_weights_with_a_tampered_header_are_refused(suffuse: Command, copy: Path) -> None:
    weights = copy / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:8] + b"{{" + data[10:])
    broken(suffuse("sample", copy), str(weights), f"its {len(data)} bytes have no readable header")


def test_a_torn_configuration_is_told(suffuse: Command, copy: Path) -> None:
    path = copy / "config.json"
    path.write_text(path.read_text()[:100])
    broken(suffuse("sample", copy), str(path), "not readable JSON")
    path.write_text("[]")
    broken(suffuse("sample", copy), str(path), "a JSON list, not an object")


def test_a_place_that_cannot_be_written_is_named(
    suffuse: Command, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    broken(suffuse("sample", labelled, "--out", blocked / "pictures"), "cannot write", str(blocked))

    def read_only(fd: int, data: bytes) -> None:
        raise OSError(30, "Read-only file system")  # EROFS: what even the superuser gets

    monkeypatch.setattr("suffuse.base.files._write", read_only)
    said = suffuse("sample", labelled, "--n", "1", "--out", tmp_path / "pictures")
    broken(said, f"cannot write {tmp_path / 'pictures'}", "the file system is read-only; choose another place")
    assert not list((tmp_path / "pictures").iterdir())


def test_ctrl_c_leaves_with_130(suffuse: Command, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "sample_batches", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    # A shell starts what runs in its background with the signal ignored, the tests too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert suffuse("sample", labelled).code == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stopped_training_names_its_signal(suffuse: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("suffuse.training.run.train", stopped)
    said = suffuse("train", "digits-ddpm", f"out={tmp_path / 'run'}")
    assert (said.code, said.err) == (143, "suffuse: stopped by SIGTERM\n")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UsageError("wrong; right it"), 2, "suffuse: wrong; right it\n"),
        (RunError("failed"), 1, "suffuse: failed\n"),
        (KeyboardInterrupt(), 130, "suffuse: stopped\n"),
        (Stopped(signal.SIGINT), 130, "suffuse: stopped by SIGINT\n"),
        (SystemExit(3), 3, ""),
    ],
)
def test_every_end_has_its_code(error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.explain_failure(error) == code
    assert capsys.readouterr().err == told


def test_a_bug_keeps_its_traceback(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(generate, "sample_batches", bug)
    monkeypatch.setattr("sys.argv", ["suffuse", "sample", str(labelled)])
    from suffuse.cli import main

    with pytest.raises(ZeroDivisionError, match="ours") as caught:
        main()
    assert caught.traceback[-1].name == "bug"


def test_a_full_gpu_and_an_odd_path_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    assert console.explain_failure(full) == 1
    assert capsys.readouterr().err.startswith("suffuse: the GPU's memory is full (CUDA out of memory); lower --batch")
    with pytest.raises(OSError, match="too long") as found:
        Path("a" * 300).stat()
    assert console.explain_failure(found.value) == 1
    assert "File name too long; check the path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("network=unett", "recipe 'digits-ddpm': network: network 'unett' does not exist; did you mean 'unet'?"),
        (
            "network.chanels=32",
            "recipe 'digits-ddpm': network: network 'unet' has no key 'chanels'; did you mean 'channels'?",
        ),
        ("optimiser.lr=fast", "recipe 'digits-ddpm': optimiser.lr: Input should be a valid number"),
    ],
)
def test_a_choice_is_explained_without_the_names_of_its_branches(suffuse: Command, override: str, told: str) -> None:
    said = suffuse("train", "digits-ddpm", override, "--dry-run")
    mistake(said, told)
    for inside in ("literal[", "function-", "constrained-", "Input should be 'auto'"):
        assert inside not in said.err
