"""Signals to a whole training: wherever one arrives, what was done is saved and the run goes on to the same end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from suffuse.data import Dataset, GaussianMixture
from suffuse.training import run as module
from suffuse.training.checkpoint import find_latest
from suffuse.training.metrics_log import read_metrics
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import dump_recipe
from suffuse.training.run import Watcher, train
from suffuse.training.signals import Stopped

Make = Callable[..., Recipe]
Remains = Callable[[Path], dict[str, Any]]
COMMAND = [sys.executable, "-c", "from suffuse.cli import main; main()", "train"]
ENDLESS = 100_000  # steps; no test waits for them


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[[Recipe], subprocess.Popen[str]]]:
    """Start `suffuse train` on a recipe in a process of its own; it is gone after the test."""
    started = []

    def start(recipe: Recipe) -> subprocess.Popen[str]:
        file = tmp_path / f"{Path(recipe.out or '').name}.yaml"
        file.write_text(dump_recipe(recipe))
        process = subprocess.Popen(
            [*COMMAND, str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        rows = read_metrics(folder)
        if rows and rows[-1]["step"] >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached: {process.communicate()[1]}")


def test_a_signal_in_the_middle_saves_and_leaves(tiny: Make, remains: Remains, spawn: Any) -> None:
    """Both signals at once, in two processes; each run then goes on to where a straight one of its length ends."""
    plain = {"optimiser": {"decay": "none"}}  # so that the rate does not depend on the number of steps
    runs = {
        signum: tiny(signum.name, steps=ENDLESS, log_every=1, checkpoint_every=ENDLESS, tree=plain)
        for signum in (signal.SIGTERM, signal.SIGINT)
    }
    processes = {signum: spawn(recipe) for signum, recipe in runs.items()}
    for signum, process in processes.items():
        wait_for_step(Path(runs[signum].out or ""), 3, process)
        process.send_signal(signum)
    for signum, process in processes.items():
        _, err = process.communicate(timeout=20)
        assert process.returncode == 128 + signum
        assert re.search(rf"saved step \d+; go on with --resume\nsuffuse: stopped by {signum.name}\n$", err)
        assert "a second signal leaves at once" in err
        assert "Traceback" not in err

        folder = Path(runs[signum].out or "")
        found = find_latest(folder / "checkpoints")
        assert found.path is not None
        assert not found.skipped
        step = int(found.path.name.removeprefix("step-"))
        assert step >= 3
        assert read_metrics(folder)[-1]["step"] == step  # the step was finished and nothing after it begun
        settings = {"steps": step + 4, "log_every": 1, "checkpoint_every": ENDLESS, "tree": plain}
        resumed = train(tiny(signum.name, **settings), "name", resume=True).folder
        straight = train(tiny(f"straight-{signum.name}", **settings), "name").folder
        assert remains(resumed) == remains(straight)


def test_a_second_signal_leaves_at_once(tiny: Make, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """In a forked child, whose saving would take a minute; the checkpoint from before is whole."""
    recipe = tiny()
    child = os.fork()
    if child == 0:
        _slow_to_save(recipe)
    deadline = time.monotonic() + 30
    while "saving takes long" not in capfd.readouterr().out:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    began = time.monotonic()
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert time.monotonic() - began < 10
    found = find_latest(Path(recipe.out or "") / "checkpoints")
    assert found.path is not None
    assert (found.path.name, found.skipped) == ("step-00000004", ())


def _slow_to_save(recipe: Recipe) -> None:
    """Interrupt a run at step 5 and take a minute to save; never returns."""
    original = module.save_checkpoint

    def slow(root: Path, step: int, state: Any, *, keep: int) -> Path:
        if step == 5:
            print("saving takes long", flush=True)
            time.sleep(60)
        return original(root, step, state, keep=keep)

    def progress(step: int, total: int, numbers: dict[str, float]) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        module.save_checkpoint = slow
        train(recipe, "name", watcher=Watcher(progress=progress))
    finally:
        os._exit(99)


def interrupted(recipe: Recipe, *, resume: bool = False) -> float:
    """Run until it is stopped; seconds that it took."""
    began = time.monotonic()
    with pytest.raises(Stopped) as caught:
        train(recipe, "name", resume=resume)
    assert caught.value.exit_code == 143
    return time.monotonic() - began


def long_wait() -> None:
    """Get SIGTERM, and go on for longer than anyone waits."""
    signal.raise_signal(signal.SIGTERM)
    time.sleep(60)


def test_while_the_data_are_read(tiny: Make, remains: Remains, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was done, so nothing is left, and the same command starts again."""
    recipe = tiny()
    with monkeypatch.context() as patch:
        patch.setattr(GaussianMixture, "load", lambda self, cache=None: long_wait())
        assert interrupted(recipe) < 20
    assert [entry.name for entry in Path(recipe.out or "").iterdir()] == [".lock"]
    straight = train(tiny("straight"), "name").folder
    assert remains(train(recipe, "name").folder) == remains(straight)


def test_while_a_batch_is_waited_for(tiny: Make, remains: Remains, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader's thread is slow; the training leaves as soon as that one batch is made, without using it."""
    recipe, original, asked = tiny(), Dataset.batch, []

    def slow(self: Dataset, index: Any, flip: Any = None) -> Any:
        asked.append(index)
        if len(asked) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        return original(self, index, flip)

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "batch", slow)
        assert interrupted(recipe) < 20
    assert find_latest(Path(recipe.out or "") / "checkpoints").path is not None
    straight = train(tiny("straight"), "name").folder
    assert remains(train(recipe, "name", resume=True).folder) == remains(straight)


def test_while_a_sheet_is_sampled(tiny: Make, remains: Remains, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny(sample_every=3)
    with monkeypatch.context() as patch:
        patch.setattr("suffuse.training.recipe.sample", lambda *args, **options: long_wait())
        assert interrupted(recipe) < 20
    found = find_latest(Path(recipe.out or "") / "checkpoints").path
    assert found is not None
    assert found.name == "step-00000003"
    straight = train(tiny("straight", sample_every=3), "name").folder
    assert remains(train(recipe, "name", resume=True).folder) == remains(straight)


def test_a_signal_before_the_last_sheet_is_no_failure(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps were taken: the run is finished and saved."""
    monkeypatch.setattr("suffuse.training.recipe.sample", lambda *args, **options: long_wait())
    done = train(tiny(sample_every=8), "name")
    assert done.step == 8
    assert (done.folder / "checkpoints" / "step-00000008").is_dir()
