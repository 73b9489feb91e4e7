"""suffuse tune: times of a consistency model, and the preset that sampling and evaluation take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def few_step(suffuse: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A consistency model on points, trained for a second."""
    folder = tmp_path_factory.mktemp("tune") / "run"
    changes = ["steps=200", "batch=64", "network.width=32", "network.depth=2", "data.count=500", "device=cpu"]
    said = suffuse("train", "ring-ict", f"out={folder}", *changes, "training.ema=[2000]", "evaluation.samples=100")
    assert said.code == 0, said.err
    return folder


def test_the_preset_is_found_and_taken(suffuse: Command, few_step: Path) -> None:
    said = suffuse("tune", few_step, "--nfe", 2, "--n", 200, "--tries", 8, "--json")
    assert said.code == 0, said.err
    facts = json.loads(said.out)
    assert Path(facts["file"]) == few_step / "presets" / "nfe-2.json"
    assert said.err.count("sigma/alpha") == 8
    assert 0.02 < facts["levels"][0] < 80
    made = suffuse("sample", few_step, "--preset", "nfe-2", "--n", 4, "--json")
    assert made.code == 0, made.err
    shown = json.loads(made.out)
    assert shown["nfe"] == 2
    assert f"{facts['levels'][0]:.4f}"[:5] in shown["grid"]
    judged = suffuse("eval", few_step, "--preset", "nfe-2", "--n", 50, "--json")
    assert judged.code == 0, judged.err


def test_the_same_search_finds_the_same(suffuse: Command, few_step: Path) -> None:
    first, again = (suffuse("tune", few_step, "--n", 100, "--tries", 7, "--json").out for _ in range(2))
    assert first == again


def test_three_evaluations_have_falling_levels(suffuse: Command, few_step: Path) -> None:
    said = suffuse("tune", few_step, "--nfe", 3, "--n", 100, "--tries", 7, "--json")
    high, low = json.loads(said.out)["levels"]
    assert high > low


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tune", "--nfe", 1), "one evaluation starts at pure noise"),
        (("tune", "--tries", 3), "needs at least 7"),
        (("sample", "--preset", "nfe-9"), "preset 'nfe-9' does not exist; did you mean 'nfe-"),
    ],
)
def test_mistakes_are_named(suffuse: Command, few_step: Path, words: tuple[object, ...], message: str) -> None:
    suffuse("tune", few_step, "--n", 50, "--tries", 7)
    command, *options = words
    said = suffuse(command, few_step, *options)
    assert said.code == 2
    assert message in said.err
    assert "Traceback" not in said.err


@pytest.fixture(scope="module")
def denoiser(suffuse: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser of points, trained for a second."""
    folder = tmp_path_factory.mktemp("tune") / "denoiser"
    changes = ["steps=150", "batch=64", "network.width=32", "network.depth=2", "data.count=500", "device=cpu"]
    said = suffuse("train", "ring-edm", f"out={folder}", *changes, "training.ema=[2000]")
    assert said.code == 0, said.err
    return folder


def test_a_denoiser_s_solver_and_grid_are_searched_within_a_budget(suffuse: Command, denoiser: Path) -> None:
    said = suffuse("tune", denoiser, "--budget", 0.3, "--n", 100, "--json")
    assert said.code == 0, said.err
    facts = json.loads(said.out)
    assert Path(facts["file"]) == denoiser / "presets" / "budget-0.3.json"
    assert facts["tried"] > 20
    assert " on " in facts["way"]
    made = suffuse("sample", denoiser, "--preset", "budget-0.3", "--n", 4, "--json")
    assert made.code == 0, made.err
    shown = json.loads(made.out)
    assert shown["nfe"] <= facts["nfe"] or shown["plan"] != "none"
    assert facts["way"].startswith(f"{shown['solver']} on {shown['grid']}")
    assert shown["plan"] == "none" or shown["plan"] in facts["way"]
    tried = [line for line in said.err.splitlines() if " on " in line]
    distances = [float(line.rsplit(" ", 1)[1]) for line in tried]
    assert min(distances) == pytest.approx(distances[[line.startswith(facts["way"]) for line in tried].index(True)])


def test_a_cost_is_said_once_and_can_be_met(suffuse: Command, denoiser: Path, few_step: Path) -> None:
    for words, message in (
        ((denoiser, "--nfe", 4, "--budget", 0.5), "give one of them"),
        ((denoiser, "--budget", 1.5), "above 0 and at most 1"),
        ((denoiser, "--budget", 0.001), "leaves none; raise it"),
        ((few_step, "--budget", 0.5), "one evaluation starts at pure noise"),
    ):
        said = suffuse("tune", *words)
        assert said.code == 2
        assert message in said.err
