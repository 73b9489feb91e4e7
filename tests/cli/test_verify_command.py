"""suffuse verify: mistakes in one line, a trial of every tier, and a claim from end to end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from suffuse.claims import ledger
from suffuse.claims.exact import PriceOfSharing
from suffuse.claims.protocol import Claim, Criterion, ExactArm, Experiment
from suffuse.training import extractor

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("etsdn",), "claim 'etsdn' does not exist; did you mean 'etsdm'?"),
        (("etsdm-price", "--tier", "long"), "none of etsdm-price has a tier 'long'"),
        (
            ("etsdm-distance", "--tier", "long"),
            "this tier is trained on mnist-train.zip; give its place with",
        ),
        (("etsdm", "steps=3"), "'steps=3' would change a fixed protocol; overrides are for --trial alone"),
        (("etsdm", "--trial", "--record"), "figures of a trial mean nothing and are not recorded"),
        (("etsdm", "--jobs", "0"), "jobs is 0; it must be at least 1"),
        (("etsdm-price", "--data", "a.zip"), "--data a.zip is not used: etsdm-price in tier small brings its own data"),
    ],
)
def test_mistakes_are_one_line(suffuse: Command, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    said = suffuse("verify", *words, "--store", tmp_path / "store")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert told in said.err
    assert not (tmp_path / "store").exists()


def test_a_claim_is_checked_shown_and_not_checked_twice(
    suffuse: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = ExactArm(name="line", exact=PriceOfSharing(ambient=2, rank=1))
    limit = Criterion(value="plugged", arm="line", at_least=1)
    experiment = Experiment(arms=(arm,), criteria=(limit,), columns=("plugged",))
    claim = Claim("x-late", "x", "yang2024etsdm", "suffuse", "Too late is ruinous.", "above 1", {"small": experiment})
    monkeypatch.setattr(ledger, "CLAIMS", (claim,))
    said = suffuse("verify", "x", "--store", tmp_path, "--jobs", 1)
    assert said.code == 0, said.err
    assert said.out.startswith("**x-late, small: reproduced.** Too late is ruinous.")
    assert "| plugged of line at least 1 | " in said.out
    assert "| criterion | found (95 %) | verdict |" in said.out
    assert "arms 3/3" in said.err
    assert (tmp_path / "results" / "x-late.small.json").is_file()
    again = suffuse("verify", "x-late", "--store", tmp_path, "--json")
    assert json.loads(again.out)[0]["state"] == "reproduced"
    assert "3 of them there already" in again.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_gpu_tier_says_that_it_needs_one(suffuse: Command, tmp_path: Path) -> None:
    said = suffuse("verify", "etsdm-distance", "--tier", "gpu", "--data", tmp_path, "--store", tmp_path / "store")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "needs a GPU and there is none here, so its figures are missing" in said.err


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 24 grey pictures in two classes."""
    for number in range(24):
        place = tmp_path / "pictures" / f"class{number % 2}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 10 * number, np.uint8)).save(place)
    return tmp_path / "pictures"


@pytest.mark.parametrize("tier", ["gpu", "full"])
def test_the_tiers_for_gpus_start_and_run_twenty_steps_of_a_test_sized_version(
    suffuse: Command, tmp_path: Path, tier: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extractor._plan
    short = {"steps": 5, "batch": 8}  # the judge's features are not what is tried here
    monkeypatch.setattr(extractor, "_plan", lambda *given: dataclasses.replace(whole(*given), **short))
    tiny = ("network.channels=16", "network.groups=8", "network.blocks=1", "network.attention_levels=[]")
    said = suffuse(
        *("verify", "etsdm-distance", "--tier", tier, "--data", pictures, "--store", tmp_path / "store"),
        *("--trial", "--jobs", 1, "--device", "cpu", "size=16", *tiny),
    )
    assert said.code == 0, said.err
    assert f"1 experiments of tier {tier} start and run; a trial's figures mean nothing" in said.out
    facts = [json.loads(path.read_text()) for path in (tmp_path / "store").glob("models/*/arm.json")]
    assert [fact["steps"] for fact in facts] == [20, 20]
