"""suffuse eval and compare on the embedded digits, with the features that they train: what is written and printed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def evaluated(suffuse: Command, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A copy of the run that was evaluated, and what the command said."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(labelled, run, ignore=shutil.ignore_patterns("checkpoints", "samples"))
    said = suffuse("eval", run)
    assert said.code == 0, said.err
    return run, said


def figures(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluation" / "figures.json").read_text())
    return found


def test_evaluation_measures_as_the_recipe_says(evaluated: tuple[Path, Any]) -> None:
    run, _ = evaluated
    found = figures(run)
    rows = {row["name"]: row for row in found["measurements"]}
    assert found["measurements"][0]["name"] == "fd_digits_classes"
    assert {"kernel_distance", "precision", "recall", "density", "coverage", "labels_right"} <= set(rows)
    for row in rows.values():
        ruler = row["ruler"]
        assert ruler == rows["precision"]["ruler"], "one evaluation has one ruler"
        assert (ruler["weights"], ruler["solver"], ruler["grid"]) == ("ema_10", "dpmpp", "log_snr(steps=3)")
        assert (ruler["nfe"], ruler["samples"], ruler["seed"]) == (3.0, 32, 1)
        assert (ruler["data"], ruler["reference_count"], ruler["features"]) == ("digits", 1797, "fd_digits_classes")
        assert len(ruler["features_hash"]) == 64
        assert ruler["reference"]
    # Two halves of 898 real digits are far nearer to each other than 32 samples of an untrained model to them.
    assert 0 < found["floor"] < rows["fd_digits_classes"]["value"] / 10
    assert found["memorisation"]["samples"] == 8
    assert found["memorisation"]["baseline"] == found["memorisation"]["against"] == "training"
    assert (found["memorisation"]["searched"], found["memorisation"]["probes"]) == (1797, 1000)


def test_evaluation_prints_its_figures_with_floor_and_ruler(evaluated: tuple[Path, Any]) -> None:
    run, said = evaluated
    for row in figures(run)["measurements"]:
        assert f"| {row['name']} | {row['value']:.4g} |" in said.out
    for words in ("two halves of the real data", "Ruler: weights ema_10", "NFE 3", "32 samples", "Memorisation:"):
        assert words in said.out
    assert str(run / "report.html") in said.err
    assert (run / "report.html").is_file()


def test_evaluating_again_gives_the_same_figures_and_one_section_in_the_card(
    suffuse: Command, evaluated: tuple[Path, Any]
) -> None:
    run, said = evaluated
    before = figures(run)
    again = suffuse("eval", run)
    assert again.out == said.out
    after = figures(run)
    for found in (before, after):
        assert found.pop("seconds") > 0
        assert found.pop("images_per_second") > 0
    assert after == before
    card = (run / "README.md").read_text()
    assert card.count("## Figures") == 1
    assert card.rstrip().endswith(said.out.rstrip())
    assert card.startswith("---\nlibrary_name: suffuse\n"), "the Hub reads the card's head"


def test_evaluation_as_json_and_with_another_ruler(suffuse: Command, evaluated: tuple[Path, Any]) -> None:
    run, _ = evaluated
    options = ("--n", 16, "--nfe", 4, "--solver", "{kind: ddim, eta: 0.5}", "--seed", 7, "--weights", "ema_1000")
    options += ("--grid", "uniform", "--batch", 5, "--precision", "bfloat16", "--features", "trained")
    found = json.loads(suffuse("eval", run, "--json", *options).out)
    assert found == figures(run)
    ruler = found["measurements"][0]["ruler"]
    assert (ruler["weights"], ruler["solver"], ruler["nfe"]) == ("ema_1000", "ddim(eta=0.5)", 4.0)
    assert (ruler["samples"], ruler["seed"]) == (16, 7)
    assert (ruler["grid"], ruler["precision"]) == ("uniform(steps=4)", "bfloat16")


def test_comparison_measures_every_run_solver_and_cost_with_one_ruler(
    suffuse: Command, labelled: Path, flowing: Path, tmp_path: Path
) -> None:
    costs = ("--nfe", "3,1,3", "--solver", "ddim, dpmpp", "--n", 16, "--seed", 5)
    said = suffuse("compare", labelled, flowing, "--out", tmp_path, *costs)
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "comparison.json").read_text())
    names = [f"{run} {solver}" for run in ("labelled", "flowing") for solver in ("ddim", "dpmpp")]
    assert [(p["name"], p["nfe"]) for p in found["points"]] == [(name, nfe) for name in names for nfe in (1.0, 3.0)]
    axes = ("solver", "grid", "nfe", "guidance", "plan", "weights", "conditions")
    rulers = [{k: v for k, v in p["quality"]["ruler"].items() if k not in axes} for p in found["points"]]
    assert rulers == rulers[:1] * 8
    assert (rulers[0]["samples"], rulers[0]["seed"]) == (16, 5)
    for point in found["points"]:
        assert f"| {point['name']} | {point['nfe']:g} | " in said.out
    assert "| two halves of the real data, half the count |" in said.out
    assert "16 samples of seed 5; features fd_digits_classes; reference digits, 1797 samples" in said.out
    # One run is told classes and the other nothing: that is said, and nothing else differs.
    assert "Mind: different rulers for fd_digits_classes: conditions (label | None)." in said.out
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert not (labelled / "comparison.json").exists(), "with --out nothing is written beside the model"


def test_comparison_of_one_run_joins_its_report(suffuse: Command, evaluated: tuple[Path, Any]) -> None:
    run, _ = evaluated
    said = suffuse("compare", run, "--nfe", 2, "--n", 8, "--json")
    (point,) = json.loads(said.out)["points"]
    assert (point["name"], point["nfe"]) == ("run dpmpp", 2.0)
    page = (run / "report.html").read_text()
    assert "Quality against cost" in page
    assert f"<td>{point['quality']['value']:.4g}</td>" in page
    assert "8 samples of seed 1; features fd_digits_classes" in page


def test_an_autoencoder_is_judged_by_what_comes_back(suffuse: Command, tmp_path: Path) -> None:
    run = tmp_path / "autoencoder"
    small = ["network.channels=4", "network.groups=2", "steps=3", "batch=8", "training.log_every=1"]
    said = suffuse("train", "digits-autoencoder", f"out={run}", *small)
    assert said.code == 0, said.err
    assert f"suffuse train RECIPE codec.run={run}" in said.out
    said = suffuse("eval", run, "--n", 40)
    assert said.code == 0, said.err
    assert "PSNR of reconstructions" in said.out
    assert "fd_digits_classes of reconstructions" in said.out
    found = figures(run)
    assert (found["samples"], found["distance"]["ruler"]["nfe"]) == (40, 0.0)
    assert 0 < found["psnr"] < 40
    assert (run / "evaluation" / "reconstructions.png").is_file()
    assert "PSNR" in (run / "README.md").read_text()
    assert json.loads(suffuse("eval", run, "--n", 40, "--json").out) == found


def test_an_autoencoder_is_not_sampled(suffuse: Command, tmp_path: Path) -> None:
    run = tmp_path / "autoencoder"
    small = ["network.channels=4", "network.groups=2", "steps=1", "batch=8"]
    assert suffuse("train", "digits-autoencoder", f"out={run}", *small).code == 0
    for words in (("sample", run), ("compare", run), ("tune", run, "--nfe", 2)):
        said = suffuse(*words)
        assert said.code == 2
        assert f"train one in its latents with codec.run={run}" in said.err
    for option, value in (("--nfe", 2), ("--batch", 3), ("--precision", "float32")):
        said = suffuse("eval", run, option, value)
        assert said.code == 2
        assert f"is an autoencoder, which is not sampled; leave {option} out" in said.err
    for count in (0, -5, 3):
        said = suffuse("eval", run, "--n", count)
        assert said.code == 2
        assert f"{count} images are too few to be judged by" in said.err


def test_plans_are_compared_from_the_command_line(suffuse: Command, labelled: Path, tmp_path: Path) -> None:
    plans = ("--plan", "deepcache,{kind: deepcache, every: 2, order: 1}")
    said = suffuse("compare", labelled, "--out", tmp_path, "--nfe", "3,6", "--n", 12, *plans)
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert list(dict.fromkeys(point["plan"] for point in found["points"])) == [
        "none",
        "deepcache",
        "deepcache(every=2, order=1)",
    ]
    assert "| PSNR | SSIM | drift |" in said.out
    assert all(point["macs"] > 0 for point in found["points"])


def test_a_plan_for_another_network_is_named(suffuse: Command, labelled: Path) -> None:
    said = suffuse("sample", labelled, "--n", 2, "--plan", "region_adaptive")
    assert said.code == 2
    assert "no tokens that could run alone" in said.err
    assert "Traceback" not in said.err
    unknown = suffuse("sample", labelled, "--n", 2, "--plan", "deepcash")
    assert unknown.code == 2
    assert "deepcache" in unknown.err
