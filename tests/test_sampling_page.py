"""The page on sampling lists what there is, with the orders that solvers declare."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from suffuse.training.joints import JOINTS

TEXT = (Path(__file__).parents[1] / "docs" / "sampling.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("joint", ["solver", "grid"])
def test_every_kind_has_a_row(joint: str) -> None:
    listed = {row[0].strip("`") for row in ROWS if len(row) == (5 if joint == "solver" else 2)}
    assert listed == set(JOINTS[joint].parts)


def test_orders_are_the_declared_ones() -> None:
    for row in ROWS:
        if len(row) != 5 or not row[2]:
            continue
        solver = JOINTS["solver"].parts[row[0].strip("`")]()
        told = [int(re.sub(r"\D", "", cell)) for cell in row[2:4]]
        assert told == [solver.convergence, solver.interior], row[0]  # type: ignore[attr-defined]  # a solver
        assert ("*" in row[2]) == solver.stochastic, row[0]  # type: ignore[attr-defined]  # as above


def test_every_guidance_is_told() -> None:
    for kind in set(JOINTS["guidance"].parts) - {"none"}:
        assert f"`{kind}`" in TEXT


def test_every_plan_has_a_row_that_says_what_it_owns() -> None:
    rows = {row[0].strip("`"): row[2] for row in ROWS if len(row) == 4}
    assert rows.keys() == JOINTS["plan"].parts.keys()
    for kind, part in JOINTS["plan"].parts.items():
        assert set(filter(None, rows[kind].split(", "))) == set(part.owns), kind  # type: ignore[attr-defined]  # a plan
