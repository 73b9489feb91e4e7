"""A run from beginning to end: what it leaves, what it tells, and what stops it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from suffuse.base.errors import RunError, UsageError
from suffuse.base.weights import read_safetensors
from suffuse.data import Digits, GaussianMixture
from suffuse.models.pretrained import load_model
from suffuse.training import run as module
from suffuse.training.checkpoint import load_checkpoint
from suffuse.training.lock import RunLock
from suffuse.training.metrics_log import read_metrics
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import load_recipe
from suffuse.training.run import Watcher, check_recipe, train

Make = Callable[..., Recipe]


@dataclasses.dataclass
class Heard:
    """What a run told."""

    notes: list[str] = dataclasses.field(default_factory=list)
    steps: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    @property
    def watcher(self) -> Watcher:
        return Watcher(note=self.notes.append, progress=lambda step, total, numbers: self.steps.append((step, total)))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kinds of data that were loaded."""
    seen: list[str] = []
    for part in (GaussianMixture, Digits):
        original = part.load

        def load(self, cache=None, original=original):  # type: ignore[no-untyped-def]
            seen.append(self.kind)
            return original(self, cache)

        monkeypatch.setattr(part, "load", load)
    return seen


# What is left


def test_a_run_leaves_a_folder_that_tells_all(tiny: Make) -> None:
    recipe, heard = tiny(pictures=True, sample_every=4, samples=4), Heard()
    done = train(recipe, "name", watcher=heard.watcher)
    folder = done.folder
    assert (done.step, str(folder)) == (8, recipe.out)
    assert {entry.name for entry in folder.iterdir()} == {
        ".lock",
        "README.md",
        "checkpoints",
        "config.json",
        "ema",
        "environment.json",
        "metrics.jsonl",
        "model.safetensors",
        "recipe.yaml",
        "samples",
    }
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000004", "step-00000008"]
    assert [row["step"] for row in read_metrics(folder)] == [3, 6, 8]
    assert heard.steps == [(step, 8) for step in range(1, 9)]
    assert any("10 class labels" in note for note in heard.notes)
    facts = json.loads((folder / "environment.json").read_text())
    assert (facts["processes"], facts["device"], facts["torch"]) == (1, "cpu", torch.__version__)
    with Image.open(folder / "samples" / "step-00000008.png") as sheet:
        assert min(sheet.size) >= 16  # four digits of 8 x 8


def test_the_recipe_that_is_left_is_the_resolved_one(tiny: Make) -> None:
    """Read back it resolves to itself: nothing is left to the data."""
    recipe = tiny(tree={"conditioner": "auto"})
    folder = train(recipe, "name").folder
    again = load_recipe(str(folder / "recipe.yaml"))
    assert again == recipe.resolve(recipe.data.load()).recipe
    assert again.conditioner.classes == 8  # type: ignore[union-attr]
    assert again.resolve(recipe.data.load()).recipe == again


def test_the_model_that_is_left_is_the_primary_average(tiny: Make) -> None:
    folder = train(tiny(), "name").folder
    state = load_checkpoint(folder / "checkpoints" / "step-00000008")
    model = load_model(folder)
    assert model.config is not None
    assert (model.config.weights, model.config.others, model.config.step) == ("ema_100", ("ema_1000",), 8)
    assert model.config.classes[:2] == ("component 0", "component 1")
    for name, average in state["ema"]["ema_100"].items():
        assert torch.equal(model.state_dict()[name], average)
    others = read_safetensors(folder / "ema" / "ema_1000.safetensors")
    for name, average in state["ema"]["ema_1000"].items():
        assert torch.equal(others[name], average)
        assert not torch.equal(average, state["model"][name])  # and the raw weights are only in the checkpoint


def test_the_metrics_are_means_over_their_window(tiny: Make) -> None:
    every = read_metrics(train(tiny("every", log_every=1), "name").folder)
    windows = read_metrics(train(tiny("windows", log_every=3), "name").folder)
    assert [row["step"] for row in windows] == [3, 6, 8]
    for row, window in zip(windows, (every[:3], every[3:6], every[6:]), strict=True):
        for key in ("denoising", "grad_norm"):
            assert row[key] == pytest.approx(sum(line[key] for line in window) / len(window), rel=1e-6)
        assert row["loss"] == row["denoising"]
        assert (row["lr"], row["images"]) == (window[-1]["lr"], row["step"] * 8)
        assert row["images_per_second"] > 0


def test_two_runs_of_a_seed_are_equal_and_another_seed_is_not(tiny: Make, remains) -> None:  # type: ignore[no-untyped-def]
    runs = [remains(train(tiny(name, seed=seed), name).folder) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert runs[0] == runs[1]
    assert runs[0]["model.safetensors"] != runs[2]["model.safetensors"]


def test_samples_on_the_way_change_nothing(tiny: Make, remains) -> None:  # type: ignore[no-untyped-def]
    """They have keys of their own, and the model that trains is not touched."""
    plain = train(tiny("plain", pictures=True, steps=4), "name").folder
    drawn = train(tiny("drawn", pictures=True, steps=4, sample_every=1, samples=2), "name").folder
    assert remains(plain) == remains(drawn)


def test_the_name_gives_the_folder(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(tiny(steps=1).replace(out=None), "mine").folder == Path("runs/mine")
    assert (tmp_path / "runs" / "mine" / "model.safetensors").is_file()


# What is refused before any work


def test_a_folder_with_something_in_it_is_refused(tiny: Make, loads: list[str]) -> None:
    recipe = tiny()
    folder = Path(recipe.out or "")
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"run exists already; add --resume to go on with it, or choose another out="):
        train(recipe, "name")
    assert [entry.name for entry in folder.iterdir()] == ["thesis.tex"]
    assert loads == []


def test_an_empty_folder_will_do_and_a_file_will_not(tiny: Make) -> None:
    recipe = tiny(steps=1)
    folder = Path(recipe.out or "")
    folder.mkdir()
    assert train(recipe, "name").step == 1
    other = tiny("file", steps=1)
    Path(other.out or "").write_text("")
    with pytest.raises(UsageError, match="file exists already"):
        train(other, "name")


def test_a_folder_that_another_run_uses_is_refused(tiny: Make, loads: list[str]) -> None:
    recipe = tiny()
    Path(recipe.out or "").mkdir()
    with RunLock(Path(recipe.out or "")), pytest.raises(UsageError, match=r"run is in use by process \d+ on .*; wait"):
        train(recipe, "name")
    assert loads == []


def test_a_batch_that_its_parts_cannot_share_is_refused(tiny: Make, loads: list[str]) -> None:
    recipe = tiny(accumulate=3)
    with pytest.raises(
        UsageError,
        match=r"training.batch is 8, which cannot be shared evenly \(processes: 1, accumulate: 3\); use a multiple",
    ):
        train(recipe, "name")
    assert loads == []
    assert not Path(recipe.out or "").exists()


def test_a_device_that_is_not_there_is_refused(tiny: Make, loads: list[str]) -> None:
    with pytest.raises(UsageError, match="device 'gpu' is unknown; use auto, cpu, cuda or cuda:N"):
        train(tiny(device="gpu"), "name")
    with pytest.raises(UsageError, match=r"device 'cuda:99' is not here \(\d+ GPUs found\)"):
        train(tiny(device="cuda:99"), "name")
    assert loads == []


CLASHES = {
    "eps where no signal is left": (
        {"path": {"kind": "flow"}, "prediction": "eps", "objective": {"noise_levels": "uniform"}},
        "prediction 'eps' and path 'flow' do not go together: at the path's last time alpha is 0",
    ),
    "identity time over decades": (
        {"path": {"kind": "edm"}, "prediction": "edm", "objective": {"noise_levels": "log_normal"}},
        "time condition 'identity' has no scale on path 'edm'",
    ),
    "indices without a table": (
        {"path": {"kind": "flow"}, "prediction": "flow"},
        "noise levels 'indices' need a path with a table, but 'flow' is continuous",
    ),
    "heun in sigma from pure noise": (
        {
            "path": {"kind": "flow"},
            "prediction": "flow",
            "objective": {"noise_levels": "uniform"},
            "sampling": {"solver": "heun", "grid": {"kind": "uniform", "steps": 4}},
        },
        "solver 'heun' in variable 'sigma' starts at sigma/alpha, which is infinite at the first time",
    ),
    "the shared times of another path": (
        {
            "path": {"kind": "edm"},
            "prediction": "edm",
            "time": {"kind": "shared", "below": 100, "intervals": 5},
            "objective": {"noise_levels": "log_normal"},
        },
        "below",
    ),
}


@pytest.mark.parametrize("clash", CLASHES)
def test_parts_that_do_not_go_together_are_refused_before_the_data(tiny: Make, loads: list[str], clash: str) -> None:
    tree, message = CLASHES[clash]
    recipe = tiny(tree=tree)
    for refuse in (lambda: check_recipe(recipe), lambda: train(recipe, "name")):
        with pytest.raises(UsageError, match=message):
            refuse()
    assert loads == []
    assert not Path(recipe.out or "").exists()


# What stops it


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tiny: Make) -> None:
    """A learning rate of 1e30 spoils the first steps' weights: what is finite is saved, what is not is refused."""
    recipe = tiny(checkpoint_every=1, tree={"optimiser": {"lr": 1e30, "warmup": 0}})
    with pytest.raises(
        RunError,
        match=r"^step 1: the loss or its gradient is not finite \(denoising \w+, grad_norm \w+\); .* is the first that "
        r"is not finite.*; the last good checkpoint is .*/checkpoints/step-00000001$",
    ):
        train(recipe, "name")
    weights = load_checkpoint(Path(recipe.out or "") / "checkpoints" / "step-00000001")["model"]
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_without_a_checkpoint_that_is_said(tiny: Make) -> None:
    recipe = tiny(tree={"optimiser": {"lr": 1e30, "warmup": 0}})
    with pytest.raises(RunError, match=r"; there is no checkpoint yet$"):
        train(recipe, "name")
    assert not (Path(recipe.out or "") / "model.safetensors").exists()


def test_on_a_device_that_is_looked_at_rarely_nothing_bad_is_saved(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the loss is looked at every few steps, and before a checkpoint in any case."""
    recipe = tiny(checkpoint_every=5, tree={"optimiser": {"lr": 1e30, "warmup": 0}})
    original = module.Trainer.__init__

    def rarely(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        original(self, *args, **kwargs)
        self._look_every = 1000

    monkeypatch.setattr(module.Trainer, "__init__", rarely)
    with pytest.raises(RunError, match=r"^step 5: the loss or its gradient is not finite .*; there is no checkpoint"):
        train(recipe, "name")


def test_a_full_disk_is_told_with_the_last_checkpoint(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.save_checkpoint

    def full(root: Path, step: int, state: object, *, keep: int) -> Path:
        if step == 8:
            raise RunError(f"cannot write {root}: the disk is full; free some space")
        return original(root, step, state, keep=keep)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "save_checkpoint", full)
    with pytest.raises(RunError, match=r"the disk is full; free some space; the last good checkpoint is .*-00000004$"):
        train(tiny(), "name")


def test_a_budget_of_time_becomes_steps(tiny: Make) -> None:
    notes: list[str] = []
    recipe = tiny("timed", minutes=0.002, checkpoint_every=1000)
    done = train(recipe, "name", watcher=Watcher(note=notes.append))
    kept = load_recipe(str(done.folder / "recipe.yaml")).training
    assert kept.minutes is None
    assert kept.steps == done.step
    assert any(note.startswith(f"0.002 minutes are {done.step} steps here") for note in notes)
    # The run of a budget is the run of its number of steps, and a resume keeps that number.
    plain = train(tiny("plain", steps=done.step, checkpoint_every=1000), "name")
    assert read_safetensors(plain.folder / "model.safetensors").keys()
    for name, value in read_safetensors(plain.folder / "model.safetensors").items():
        assert torch.equal(value, read_safetensors(done.folder / "model.safetensors")[name])
    again = train(recipe, "name", resume=True)
    assert again.step == done.step
