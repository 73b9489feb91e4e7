"""A whole training that is killed again and again: the slowest test of this folder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from suffuse.training.checkpoint import find_latest
from suffuse.training.metrics_log import read_metrics
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import dump_recipe
from suffuse.training.run import train

STEPS, KILLS = 400, 3
COMMAND = [sys.executable, "-c", "from suffuse.cli import main; main()", "train"]


def last_step(folder: Path) -> int:
    rows = read_metrics(folder)
    return rows[-1]["step"] if rows else 0


def names(folder: Path) -> set[str]:
    """Files and folders of a run at any depth, its checkpoints apart."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return {name for name in found if not name.startswith("checkpoints/")}


def killed(file: Path, folder: Path, step: int, delay: float, *, resume: bool) -> None:
    """Train in a process of its own and kill it `delay` seconds after a step."""
    command = [*COMMAND, str(file), *(["--resume"] if resume else [])]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while last_step(folder) < step:
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(delay)
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL


def test_killed_three_times_it_ends_where_the_straight_run_ends(
    tiny: Callable[..., Recipe], remains: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    """A checkpoint every third step, so that many of the kills fall into the writing of one."""
    settings = {"steps": STEPS, "log_every": 1, "checkpoint_every": 3}
    recipe = tiny("killed", **settings)
    folder, file = Path(recipe.out or ""), tmp_path / "killed.yaml"
    file.write_text(dump_recipe(recipe))
    moments = random.Random(5)
    for kill in range(KILLS):
        step = int(STEPS * (kill + moments.random()) / (KILLS + 1)) + 1
        killed(file, folder, max(step, last_step(folder) + 1), moments.uniform(0, 0.05), resume=kill > 0)
        assert find_latest(folder / "checkpoints").path is not None
        assert last_step(folder) < STEPS
    done = train(recipe, "killed", resume=True)
    straight = train(tiny("straight", **{**settings, "checkpoint_every": STEPS}), "straight")
    assert done.step == STEPS
    assert remains(done.folder) == remains(straight.folder)
    assert names(done.folder) == names(straight.folder)  # what a killed writer left is gone
