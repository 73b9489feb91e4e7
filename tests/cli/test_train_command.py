"""suffuse train: the whole recipe before any work, and what is said at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suffuse.training.recipe_files import load_recipe

Command = Callable[..., Any]


def test_a_dry_run_prints_a_recipe_that_reads_back_and_does_nothing(
    suffuse: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = suffuse("train", "digits-etsdm", "steps=7", "optimiser.lr=1e-4", "time.intervals=4", "--dry-run")
    assert (said.code, said.err) == (0, "")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine.yaml").write_text(said.out)
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert recipe == load_recipe("digits-etsdm", ["steps=7", "optimiser.lr=1e-4", "time.intervals=4"])
    assert (recipe.training.steps, recipe.optimiser.lr) == (7, 1e-4)
    said = suffuse("train", "digits-ddpm", "path.zero_terminal_snr=true", "--dry-run")
    assert (said.code, said.out) == (2, ""), "a recipe that cannot be trained is not printed as if it could"


def test_a_run_goes_on_by_its_folder_and_ends_with_what_to_do_next(suffuse: Command, labelled: Path) -> None:
    said = suffuse("train", labelled, "--resume")
    assert said.code == 0, said.err
    assert "resumed at step 2 from step-00000002" in said.err
    last, following = said.out.splitlines()
    assert last.startswith(f"{labelled}: 2 steps, ")
    assert following == f"next: suffuse sample {labelled} --n 16   or   suffuse eval {labelled}"
    again = suffuse("train", labelled)
    assert (again.code, again.out) == (2, "")
    assert f"{labelled} exists already; add --resume to go on with it" in again.err


def test_facts_of_a_training_as_json(suffuse: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny = ("steps=1", "batch=8", "network.channels=8", "network.groups=4")
    said = suffuse("train", "digits-ddpm", f"out={out}", *tiny, "--json")
    facts = json.loads(said.out)
    assert facts.pop("seconds") > 0
    # A network that starts at zero predicts noise as 0, whose mean square is 1 within 1 / sqrt(8 * 64 / 2).
    assert facts.pop("loss") == pytest.approx(1, abs=0.25)
    assert facts == {"folder": str(out), "step": 1}
