"""Results: read back as written, voided by another protocol, stale after a change, and shown as they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError
from suffuse.claims import result, tables
from suffuse.claims.protocol import Claim, Criterion
from suffuse.claims.record import Folders, show
from suffuse.claims.result import read, result_file, status, write
from suffuse.claims.tables import filled, overview, report, summary
from suffuse.claims.verify import Checked, Settings, verify

from .conftest import tiny_claim


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    (found,) = verify([tiny_claim()], "small", Settings(store=tmp_path_factory.mktemp("store")))
    return found


@pytest.fixture
def folder(checked: Checked, tmp_path: Path) -> Path:
    write(tmp_path, checked)
    return tmp_path


def test_it_holds_what_a_reader_needs(checked: Checked, folder: Path) -> None:
    data = read(result_file(folder, checked.claim, "small"))
    assert (data["claim"], data["tier"]) == ("tiny-claim", "small")
    assert data["values"]["none"].keys() == {"0", "1"}
    assert data["criteria"][0]["text"] == "eps_mse@0 of etsdm over that of none at most 2"
    assert data["arms"]["etsdm"]["recipe"] == "digits-etsdm"
    assert data["arms"]["etsdm"]["overrides"] == list(checked.experiment.shared)
    assert data["arms"]["etsdm"]["cost"]["steps"] == 4
    assert data["arms"]["known"]["exact"]["kind"] == "price"
    assert data["run"].keys() == {"date", "commit", "hardware", "threads", "suffuse", "torch", "numpy", "python"}
    assert len(data["data"]["fingerprint"]) > 10
    assert data["floors"] == {}, "no distance is measured"
    assert str(Path.home()) not in json.dumps(data)


def test_its_state_is_computed_from_values_and_criteria(checked: Checked, folder: Path) -> None:
    found = status(checked.claim, "small", folder)
    assert (found.state, found.void, found.stale) == ("reproduced", False, ())
    path = result_file(folder, checked.claim, "small")
    data = read(path)
    for row in data["values"]["etsdm"].values():
        row["eps_mse@0"] = 100.0
    files.write_json(path, data)
    assert status(checked.claim, "small", folder).state == "not reproduced"


def test_a_changed_criterion_voids_it(checked: Checked, folder: Path) -> None:
    looser = tiny_claim(criteria=(Criterion(value="eps_mse@0", arm="etsdm", over="none", at_most=3.0),))
    found = status(looser, "small", folder)
    assert (found.state, found.void) == ("not run", True)
    assert found.words == "void: the protocol has changed since"
    assert "There are no figures" in report(found)


def test_what_another_protocol_found_stays_on_record(checked: Checked, folder: Path) -> None:
    limit = Criterion(value="eps_mse@0", arm="etsdm", over="none", at_most=0.1)
    harder = tiny_claim(criteria=(limit,))
    write(folder, dataclasses.replace(checked, claim=harder, experiment=harder.experiments["small"]))
    found = status(harder, "small", folder)
    assert found.state == "not reproduced"
    assert "Another protocol, of " in report(found)
    assert "found: eps_mse@0 of etsdm over that of none at most 2: holds." in report(found)
    write(folder, dataclasses.replace(checked, claim=harder, experiment=harder.experiments["small"]))
    assert len(read(result_file(folder, harder, "small"))["earlier"]) == 1


def test_a_changed_source_makes_it_stale(checked: Checked, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "model_identity", lambda recipe: {"recipe": "same", "source": "other"})
    found = status(checked.claim, "small", folder)
    assert found.stale == ("none", "etsdm")
    assert found.words == "reproduced (stale)"
    assert "Stale, because recipe or source have changed since: none, etsdm." in report(found)


def test_a_summary_counts_states_and_what_is_stale(
    checked: Checked, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = (checked.claim, tiny_claim("tiny-other"))
    assert summary(claims, folder).endswith("| 2 | 1 reproduced, 1 not run |")
    monkeypatch.setattr(result, "model_identity", lambda recipe: {"recipe": "same", "source": "other"})
    assert summary(claims, folder).endswith("| 2 | 1 reproduced, 1 not run (1 stale) |")


def test_without_a_result_it_was_not_run(checked: Checked, tmp_path: Path) -> None:
    assert status(checked.claim, "small", tmp_path).words == "not run"
    assert status(checked.claim, "long", tmp_path).words == "not run"


def test_a_damaged_or_newer_file_is_named(checked: Checked, folder: Path) -> None:
    path = result_file(folder, checked.claim, "small")
    files.write_json(path, {"format_version": 1, "claim": "tiny-claim"})
    with pytest.raises(RunError, match=r"tiny-claim.small.json lacks tier, protocol"):
        status(checked.claim, "small", folder)
    files.write_json(path, {"format_version": 99})
    with pytest.raises(UsageError, match="written by a newer suffuse"):
        status(checked.claim, "small", folder)


def test_tables_are_made_from_the_file_alone(checked: Checked, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "find_claims", lambda name: (checked.claim,))
    first = "before\n<!-- ledger:tiny-claim:small -->\noutdated\n<!-- /ledger -->\n"
    page = first + "after\n<!-- ledger:x:overview -->\n<!-- /ledger -->"
    made = filled(page, folder)
    assert made.startswith("before\n<!-- ledger:tiny-claim:small -->\n**tiny-claim, small: reproduced.**")
    assert "outdated" not in made
    assert filled(made, folder) == made
    values = checked.values["none"]
    mean = (values[0]["eps_mse@0"] + values[1]["eps_mse@0"]) / 2
    assert f"| none | 2 | {mean:.3g} ±" in made
    assert "| `tiny-claim`: A tiny network learns. | suffuse | reproduced |" in made
    with pytest.raises(UsageError, match="ledger block 'smal' does not exist; did you mean 'small'"):
        filled("<!-- ledger:x:smal -->\n<!-- /ledger -->", folder)


def test_an_overview_has_a_column_for_every_tier(folder: Path, claim: Claim) -> None:
    longer = tiny_claim("other")
    both = Claim(
        **{**vars(longer), "experiments": {"small": longer.experiments["small"], "long": longer.experiments["small"]}}
    )
    lines = overview([claim, both], folder).splitlines()
    assert lines[0] == "| claim | says | small | long |"
    assert lines[2].endswith("| reproduced |  |")
    assert lines[3].endswith("| not run | not run |")


def test_it_is_shown_with_its_pictures(checked: Checked, tmp_path: Path) -> None:
    shown = show(checked, Folders(tmp_path / "results", tmp_path / "plots"))
    assert shown.data["state"] == "reproduced"
    assert [file.name for file in shown.files] == [
        "tiny-claim.small.json",
        "tiny-claim.small.bars.png",
        "tiny-claim.small.curve.png",
    ]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in shown.files[1:])
