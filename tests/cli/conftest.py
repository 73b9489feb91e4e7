"""What the tests of the command line share: a way to call it, and two tiny runs that it trained itself."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from suffuse.cli import main


@dataclass(frozen=True)
class Said:
    """What a command left: its exit code, and its two streams."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture(scope="session")
def suffuse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """`suffuse` as a function, in this process and with a cache of its own; a bug's traceback comes through."""

    def call(*words: object) -> Said:
        out, err, code = io.StringIO(), io.StringIO(), None
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "argv", ["suffuse", *map(str, words)])
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as left:
                    code = left.code
        return Said(int(code or 0), out.getvalue(), err.getvalue())

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield call


# Two steps teach nothing; without zeros at the output the samples still depend on everything that they should.
_TINY = (
    "steps=2",
    "batch=32",
    "network.channels=8",
    "network.groups=4",
    "network.zero_init=false",
    "evaluation.samples=32",
    "evaluation.nearest=8",
)


def _trained(suffuse: Command, out: Path, *overrides: str) -> Path:
    done = suffuse("train", "digits-etsdm", f"out={out}", *_TINY, *overrides)
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="session")
def labelled(suffuse: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional run on a table of betas, with two averages."""
    out = tmp_path_factory.mktemp("runs") / "labelled"
    return _trained(
        suffuse, out, "prediction=v", "training.ema=[10, 1000]", "training.ema_ramp=1", "sampling.grid.steps=3"
    )


@pytest.fixture(scope="session")
def flowing(suffuse: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconditional run on the flow path."""
    return _trained(
        suffuse,
        tmp_path_factory.mktemp("runs") / "flowing",
        "path=flow",
        "prediction=flow",
        "time={kind: identity}",
        "conditioner=none",
        "objective.noise_levels=uniform",
        "objective.condition_dropout=0",
        "sampling={solver: ddim, grid: {kind: uniform, steps: 3}}",
    )
