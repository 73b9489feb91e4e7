"""Alignments on the command line: trained, judged, and told what they are for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., Any]


def test_an_alignment_is_trained_and_judged(suffuse: Command, tmp_path: Path) -> None:
    out = tmp_path / "words"
    small = ("data.count=120", "data.size=16", "network.widths=[4, 4]", "steps=2", "batch=8", "device=cpu")
    said = suffuse("train", "shapes-alignment", *small, f"out={out}")
    assert said.code == 0, said.err
    assert f"next: suffuse train RECIPE conditioner.run={out}   or   suffuse eval {out}" in said.out
    found = suffuse("eval", out, "--n", 100, "--device", "cpu", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["samples"] == 100
    assert "captions that find a right image" in suffuse("eval", out, "--n", 100, "--device", "cpu").out
    ways = suffuse("eval", out, "--nfe", 2)
    assert (ways.code, "is an alignment, which is not sampled; leave --nfe out" in ways.err) == (2, True)
    drawn = suffuse("sample", out)
    assert (drawn.code, "aligns captions with images and makes no samples" in drawn.err) == (2, True)
