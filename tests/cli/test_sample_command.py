"""suffuse sample: the same picture for the same seed and number, and facts that are counted."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from suffuse.models.denoiser import Denoiser

Command = Callable[..., Any]
DIGIT, ZOOM, GAP = 8, 8, 4  # pixels of a digit, enlarged to 64 on a sheet, and between two


def pictures(suffuse: Command, run: Path, out: Path, *options: object) -> dict[int, NDArray[np.uint8]]:
    """Number -> pixels of the separate files that a command writes, (H, W)."""
    said = suffuse("sample", run, "--separate", "--out", out, *options)
    assert said.code == 0, said.err
    found = {}
    for path in out.glob("*-??????.png"):  # the sheet's name has a range of numbers instead of six digits
        with Image.open(path) as image:
            found[int(path.stem.rsplit("-", 1)[1])] = np.asarray(image)
    return found


def strict(text: str) -> dict[str, Any]:
    """JSON as the standard has it: Python alone knows NaN and Infinity."""

    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is not JSON")

    facts: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return facts


@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_the_sheet_shows_every_sample(suffuse: Command, labelled: Path, n: int, tmp_path: Path) -> None:
    said = suffuse("sample", labelled, "--n", n, "--out", tmp_path)
    (sheet,) = tmp_path.iterdir()
    assert said.out == f"{sheet}\n"
    assert sheet.name == f"seed-0-0-{n - 1}.png"
    columns = {1: 1, 2: 2, 5: 3, 16: 4}[n]
    rows = -(-n // columns)
    with Image.open(sheet) as image:
        assert image.size == tuple(count * (DIGIT * ZOOM + GAP) - GAP for count in (columns, rows))


def test_without_out_the_run_keeps_its_samples(suffuse: Command, labelled: Path) -> None:
    said = suffuse("sample", labelled, "--n", 2, "--seed", 9)
    assert said.out == f"{labelled / 'samples' / 'seed-9-0-1.png'}\n"
    assert (labelled / "samples" / "seed-9-0-1.png").is_file()


def test_the_same_command_writes_the_same_bytes(suffuse: Command, labelled: Path, tmp_path: Path) -> None:
    first, again, other = tmp_path / "first", tmp_path / "again", tmp_path / "other"
    for out, seed in ((first, 4), (again, 4), (other, 5)):
        assert suffuse("sample", labelled, "--n", 4, "--seed", seed, "--out", out).code == 0
    data = (first / "seed-4-0-3.png").read_bytes()
    assert data == (again / "seed-4-0-3.png").read_bytes()
    assert data != (other / "seed-5-0-3.png").read_bytes()


def test_a_sample_does_not_depend_on_the_batch_around_it(suffuse: Command, labelled: Path, tmp_path: Path) -> None:
    whole = pictures(suffuse, labelled, tmp_path / "whole", "--n", 7)
    assert sorted(whole) == list(range(7))
    parts = pictures(suffuse, labelled, tmp_path / "parts", "--n", 7, "--batch", 3)
    late = pictures(suffuse, labelled, tmp_path / "late", "--n", 2, "--first", 5)
    assert sorted(late) == [5, 6]
    for found in (parts, late):
        for number, pixels in found.items():
            # Noise is bit-equal, pictures to 1e-5, which may move a pixel across one rounding edge but no further.
            assert np.abs(pixels.astype(int) - whole[number]).max() <= 1
    assert any((late[5] != whole[other]).any() for other in range(5)), "or else all samples are alike"


def test_labels_go_round_unless_one_is_asked_for(suffuse: Command, labelled: Path, tmp_path: Path) -> None:
    turns = pictures(suffuse, labelled, tmp_path / "turns", "--n", 10)
    threes = pictures(suffuse, labelled, tmp_path / "threes", "--n", 10, "--label", 3)
    same = [number for number in turns if (turns[number] == threes[number]).all()]
    assert same == [3]


def test_guidance_and_weights_change_the_picture(suffuse: Command, labelled: Path, tmp_path: Path) -> None:
    plain = pictures(suffuse, labelled, tmp_path / "plain", "--n", 2)
    changes = {"unguided": ("--cfg", 1), "guided": ("--cfg", 8), "other": ("--weights", "ema_1000")}
    found = {name: pictures(suffuse, labelled, tmp_path / name, "--n", 2, *how) for name, how in changes.items()}
    assert all((plain[number] == found["unguided"][number]).all() for number in plain)
    assert any((plain[number] != found["guided"][number]).any() for number in plain)
    assert any((plain[number] != found["other"][number]).any() for number in plain)


@pytest.mark.parametrize(
    ("options", "nfe"),
    [
        (("--nfe", 5), 5),
        (("--nfe", 5, "--solver", "heun"), 5),
        (("--nfe", 6, "--solver", "heun"), 5),
        (("--steps", 3, "--solver", "heun", "--cfg", 2), 10),
        (("--nfe", 7, "--cfg", 2), 6),
        (("--grid", "{kind: list, listed: [900, 500]}"), 2),
    ],
)
def test_the_evaluations_told_are_those_made(
    suffuse: Command, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, nfe: int
) -> None:
    rows = []
    original = Denoiser.denoise

    def counted(self: Denoiser, x: Any, *more: Any) -> Any:
        rows.append(len(x))
        return original(self, x, *more)

    monkeypatch.setattr(Denoiser, "denoise", counted)
    said = suffuse("sample", labelled, "--n", 5, "--batch", 2, "--out", tmp_path, "--json", *options)
    assert said.code == 0, said.err
    assert strict(said.out)["nfe"] == sum(rows) / 5 == nfe


def test_facts_are_json_even_where_a_setting_is_infinite(suffuse: Command, labelled: Path, tmp_path: Path) -> None:
    options = ("--n", 2, "--seed", 3, "--first", 4, "--solver", "heun", "--cfg", 3, "--steps", 2)
    facts = strict(suffuse("sample", labelled, "--out", tmp_path, "--json", *options).out)
    assert facts.pop("seconds") > 0
    assert facts == {
        "file": str(tmp_path / "seed-3-4-5.png"),
        "samples": 2,
        "shape": [1, 8, 8],
        "prompts": [],
        "first": 4,
        "seed": 3,
        "weights": "ema_10",
        "nfe": 6.0,
        "precision": "float32",
        "solver": "heun",
        "grid": "log_snr(steps=2)",
        "guidance": "cfg(scale=3.0)",
        "plan": "none",
    }


def test_time_says_what_it_cost(suffuse: Command, labelled: Path, tmp_path: Path) -> None:
    said = suffuse("sample", labelled, "--n", 2, "--nfe", 4, "--out", tmp_path, "--time")
    _, cost = said.out.splitlines()
    seconds, speed, nfe, solver = cost.split(", ")
    assert seconds.endswith(" s")
    assert speed.endswith(" samples/s")
    assert (nfe, solver) == ("NFE 4", "solver dpmpp")


def test_a_run_here_needs_no_network_and_one_on_the_hub_says_so(
    suffuse: Command, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[object] = []

    def unreachable(*words: object, **_: object) -> NoReturn:
        attempts.append(words)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    assert suffuse("sample", labelled, "--n", 1, "--out", tmp_path).code == 0
    assert not attempts
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    said = suffuse("sample", "someone/a-model")
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        "suffuse: someone/a-model is not a folder here, and the Hub cannot be reached ([Errno 101] Network is "
        "unreachable); give the folder of a run, or go online\n"
    )
    assert suffuse("sample", "a-model").code == 2, "a name without an owner is no repository"


def test_a_prompt_that_is_too_long_is_named_and_several_make_a_row_each(
    suffuse: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ["data.count=20", "steps=2", "batch=2", "device=cpu", "codec=null", "data.size=8", "training.ema=[10]"]
    network = "network={kind: dit, width: 16, depth: 1, heads: 2, patch: 4}"
    reader = "conditioner={kind: text, width: 8, depth: 1, heads: 2, length: 6, most: 300}"
    run = tmp_path / "run"
    assert suffuse("train", "shapes-ldm:prior", *small, network, reader, f"out={run}").code == 0
    words = ("--prompt", "a red circle", "--prompt", "a red circle " * 9, "--n", 2, "--nfe", 4)
    said = suffuse("sample", run, *words, "--negative", "a square", "--json")
    assert said.code == 0, said.err
    assert "1 of 3 captions are longer than 6 tokens and lose their end ('a red circle" in said.err
    assert strict(said.out)["samples"] == 4
    refused = suffuse("sample", run, *words, "--negative", "a square", "--cfg", 1)
    assert refused.code == 2
    assert "a negative prompt acts through guidance, but there is none" in refused.err


def test_other_sides_are_in_the_name_and_in_the_facts(suffuse: Command, labelled: Path, tmp_path: Path) -> None:
    options = ("--n", 2, "--nfe", 2, "--out", tmp_path, "--separate")
    said = suffuse("sample", labelled, *options, "--height", 16, "--json")
    assert said.code == 0, said.err
    assert strict(said.out)["shape"] == [1, 16, 8]
    assert {path.name for path in tmp_path.iterdir()} == {
        "seed-0-8x16-0-1.png",
        "seed-0-8x16-000000.png",
        "seed-0-8x16-000001.png",
    }
    with Image.open(tmp_path / "seed-0-8x16-000001.png") as image:
        assert image.height == 2 * image.width
    bad = suffuse("sample", labelled, *options, "--height", 17)
    assert (bad.code, "choose another height and width, or leave them out" in bad.err) == (2, True)
