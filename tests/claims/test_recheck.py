"""Recheck: a result whose source has changed counts again when one seed of every arm gives the same figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from suffuse.base.errors import UsageError
from suffuse.claims import arms, result
from suffuse.claims.protocol import Claim
from suffuse.claims.recheck import recheck
from suffuse.claims.result import read, result_file, status, write
from suffuse.claims.tables import report
from suffuse.claims.verify import Settings, verify

from .conftest import tiny_claim


@pytest.fixture
def recorded(claim: Claim, tmp_path: Path) -> Path:
    """A folder with the tiny claim's result."""
    (found,) = verify([claim], "small", Settings(store=tmp_path / "store"))
    write(tmp_path / "results", found)
    return tmp_path / "results"


def _change_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """All identities become others, as after a change of a module that everything reaches."""
    monkeypatch.setattr(arms, "source_hash", lambda modules, named=(): "another source")


def test_equal_figures_count_again(
    claim: Claim, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not status(claim, "small", recorded).stale
    _change_source(monkeypatch)
    before = status(claim, "small", recorded)
    assert before.words.endswith("(stale)")
    (found,) = recheck([claim], "small", Settings(store=tmp_path / "store"), recorded)
    assert found.differing == ()
    assert found.compared > 10
    after = status(claim, "small", recorded)
    assert (after.state, after.stale, after.rechecked) == (before.state, (), True)
    assert "Rechecked" in report(after)
    assert after.values == before.values
    # It ran one seed of two, and the computation.
    trained = list((tmp_path / "store" / "models").glob("*/arm.json"))
    assert len(trained) == 4 + 2


def test_another_change_makes_it_stale_again(
    claim: Claim, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _change_source(monkeypatch)
    recheck([claim], "small", Settings(store=tmp_path / "store"), recorded)
    monkeypatch.setattr(arms, "source_hash", lambda modules, named=(): "a third source")
    assert status(claim, "small", recorded).stale


def test_other_figures_leave_it_stale(
    claim: Claim, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = result_file(recorded, claim, "small")
    data = json.loads(path.read_text())
    data["values"]["none"]["0"]["eps_mse@0"] *= 1.01
    path.write_text(json.dumps(data))
    _change_source(monkeypatch)
    (found,) = recheck([claim], "small", Settings(store=tmp_path / "store"), recorded)
    assert len(found.differing) == 1
    assert "eps_mse@0 of none" in found.text
    assert status(claim, "small", recorded).stale
    assert "rechecked" not in read(path)


def test_there_must_be_a_result_whose_protocol_holds(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run `suffuse verify` first"):
        recheck([tiny_claim("other-claim")], "small", Settings(store=tmp_path / "store"), recorded)
    changed = tiny_claim(seeds=(0, 1, 2))
    assert result.status(changed, "small", recorded).void
    with pytest.raises(UsageError, match="run `suffuse verify` first"):
        recheck([changed], "small", Settings(store=tmp_path / "store"), recorded)
