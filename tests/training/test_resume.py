"""Resume: a run with interruptions ends where the straight run ends, to the bit; and what cannot be resumed is told."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suffuse.base.errors import UsageError
from suffuse.training import run as module
from suffuse.training.checkpoint import load_checkpoint
from suffuse.training.lock import RunLock
from suffuse.training.metrics_log import read_metrics
from suffuse.training.recipe import Recipe
from suffuse.training.run import Finished, Watcher, train
from suffuse.training.signals import Stopped

Make = Callable[..., Recipe]
Remains = Callable[[Path], dict[str, Any]]


def stopped_after(recipe: Recipe, steps: int, *, resume: bool = False) -> None:
    """Train until `steps` are taken, then get SIGTERM."""

    def progress(step: int, total: int, numbers: dict[str, float]) -> None:
        if step == steps:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped) as caught:
        train(recipe, "name", resume=resume, watcher=Watcher(progress=progress))
    assert caught.value.exit_code == 143


def resumed(recipe: Recipe) -> tuple[Finished, list[str]]:
    notes: list[str] = []
    return train(recipe, "name", resume=True, watcher=Watcher(note=notes.append)), notes


VARIANTS: dict[str, dict[str, Any]] = {
    "points": {},
    "pictures": {"pictures": True},
    "accumulated": {"accumulate": 4},
    "mirrored": {"pictures": True, "flip": True},
    "stopped within a window of metrics": {"log_every": 8},
    "stopped at a checkpoint": {"checkpoint_every": 5},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_and_resumed_is_the_straight_run(tiny: Make, remains: Remains, variant: str) -> None:
    settings = VARIANTS[variant]
    straight = train(tiny("straight", **settings), "name").folder
    recipe = tiny("parts", **settings)
    stopped_after(recipe, 5)
    done, notes = resumed(recipe)
    assert any(note == "resumed at step 5 from step-00000005" for note in notes)
    assert done.step == 8
    assert remains(done.folder) == remains(straight)


def test_stopped_at_every_step_is_the_straight_run(tiny: Make, remains: Remains) -> None:
    straight = train(tiny("straight"), "name").folder
    recipe = tiny("parts")
    for step in range(1, 8):
        stopped_after(recipe, step, resume=step > 1)
    assert remains(resumed(recipe)[0].folder) == remains(straight)


def test_a_crash_is_resumed_from_the_checkpoint_before_it(
    tiny: Make, remains: Remains, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of metrics after that checkpoint are written again, not twice."""
    straight = train(tiny("straight", log_every=1), "name").folder
    recipe = tiny("parts", log_every=1)

    def crash(step: int, total: int, numbers: dict[str, float]) -> None:
        if step == 7:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        train(recipe, "name", watcher=Watcher(progress=crash))
    assert [row["step"] for row in read_metrics(Path(recipe.out or ""))] == [1, 2, 3, 4, 5, 6, 7]
    done, notes = resumed(recipe)
    assert any(note.startswith("resumed at step 4") for note in notes)
    assert [row["step"] for row in read_metrics(done.folder)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert remains(done.folder) == remains(straight)


def test_a_broken_checkpoint_is_skipped_and_said(tiny: Make, remains: Remains) -> None:
    straight = train(tiny("straight"), "name").folder
    recipe = tiny("parts")
    stopped_after(recipe, 6)
    newest = Path(recipe.out or "") / "checkpoints" / "step-00000006" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-4])
    done, notes = resumed(recipe)
    assert any(note.startswith("skipped the broken checkpoint step-00000006: ") for note in notes)
    assert any("resumed at step 4 from step-00000004" in note for note in notes)
    assert remains(done.folder) == remains(straight)


def test_without_a_checkpoint_it_starts_over(tiny: Make, remains: Remains) -> None:
    straight = train(tiny("straight"), "name").folder
    recipe = tiny("parts")
    stopped_after(recipe, 2)
    shutil.rmtree(Path(recipe.out or "") / "checkpoints")
    with pytest.raises(UsageError, match=r"has a model but no whole checkpoint to go on from; bring .*init\.run="):
        resumed(recipe)
    (Path(recipe.out or "") / "model.safetensors").unlink()
    done, notes = resumed(recipe)
    assert "no checkpoint yet: starting from step 0" in notes
    assert remains(done.folder) == remains(straight)


def test_more_steps_are_a_longer_run(tiny: Make, remains: Remains) -> None:
    """Without decay the rate does not know the end, so going on is the longer run."""
    flat = {"optimiser": {"decay": "none"}}
    straight = train(tiny("straight", steps=12, tree=flat, log_every=4), "name").folder
    train(tiny("parts", steps=8, tree=flat, log_every=4), "name")
    done, _ = resumed(tiny("parts", steps=12, tree=flat, log_every=4))
    assert remains(done.folder) == remains(straight)


def test_a_finished_run_is_left_as_it_is(tiny: Make, remains: Remains) -> None:
    folder = train(tiny(), "name").folder
    before = remains(folder)
    done, _ = resumed(tiny())
    assert done.step == 8
    assert remains(folder) == before


def test_a_kill_between_checkpoint_and_model_loses_nothing(
    tiny: Make, remains: Remains, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint is whole but the model that the world sees is an older one."""
    straight = train(tiny("straight"), "name").folder
    recipe, original = tiny("parts"), module.save_model

    def killed(folder: Path, config: Any, *rest: Any) -> None:
        if config.step == 8:
            raise KeyboardInterrupt
        original(folder, config, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, "name")
    assert remains(Path(recipe.out or ""))["config"]["step"] == 4
    assert remains(resumed(recipe)[0].folder) == remains(straight)


def test_what_a_killed_writer_left_is_removed_and_keeps_nobody_out(tiny: Make) -> None:
    """Killed before its first file was whole, a run leaves a lock and a staged file: that is no work to be lost."""
    recipe = tiny()
    folder = Path(recipe.out or "")
    folder.mkdir()
    for leftover in (".lock", ".staging-recipe.yaml-123-0123abcd"):
        (folder / leftover).write_text("tor")
    assert train(recipe, "name").step == 8
    (folder / "ema" / ".staging-ema_1000.safetensors-123-0123abcd").write_text("tor")
    resumed(recipe)
    assert not list(folder.rglob(".staging-*"))


# What cannot be resumed


def test_a_run_that_is_not_there_is_refused(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no run to resume in .*/run; leave --resume out, or correct out="):
        train(tiny(), "name", resume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_elsewhere_is_refused_and_untouched(tiny: Make, remains: Remains) -> None:
    recipe = tiny()
    stopped_after(recipe, 5)
    folder = Path(recipe.out or "")
    before = remains(folder)
    with RunLock(folder), pytest.raises(UsageError, match=r"run is in use by process \d+"):
        train(recipe, "name", resume=True)
    assert remains(folder) == before


def test_another_network_is_refused_and_the_run_untouched(tiny: Make) -> None:
    recipe = tiny()
    stopped_after(recipe, 5)
    folder = Path(recipe.out or "")
    recipe_before = (folder / "recipe.yaml").read_bytes()
    with pytest.raises(UsageError, match=r"the checkpoint's weights do not fit the model: .*use the configuration"):
        train(tiny(tree={"network": {"width": 16}}), "name", resume=True)
    assert (folder / "recipe.yaml").read_bytes() == recipe_before
    assert load_checkpoint(folder / "checkpoints" / "step-00000005")["step"] == 5
    assert resumed(recipe)[0].step == 8


def test_another_run_by_the_same_name_is_refused(tiny: Make, remains: Remains) -> None:
    train(tiny("run"), "name")
    before = remains(Path(tiny("run").out or ""))
    for changes, words in (
        ({"batch": 4}, r"begun with training.batch 8, not 4; resume with its own, or begin another run"),
        ({"seed": 5}, r"training.seed 0, not 5"),
        ({"tree": {"objective": {"condition_dropout": 0.5}}}, r"begun with objective.condition_dropout 0.1, not 0.5"),
        ({"tree": {"init": "elsewhere"}}, r"a run that is resumed has its own; leave init out"),
        ({"tree": {"prediction": "x0"}}, r"begun with prediction {'kind': '\w+'}, not {'kind': 'x0'}"),
        ({"tree": {"data": {"kind": "rings"}}}, r"the data are not those that the run was begun with"),
        ({"steps": 3}, r"training.steps is 3, but the run has taken 8"),
    ):
        with pytest.raises(UsageError, match=words):
            resumed(tiny("run", **changes))
    assert remains(Path(tiny("run").out or "")) == before
    _, notes = resumed(tiny("run", steps=9, tree={"optimiser": {"lr": 3e-4}}))
    assert any(note.startswith("the optimiser goes on with other settings: lr 0.0003 (was ") for note in notes)
