"""Help, version and lists: what a stranger sees first, and how fast."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from suffuse import __version__
from suffuse.base.techniques import TECHNIQUES
from suffuse.training.joints import JOINTS
from suffuse.training.recipe_files import list_recipes, read_recipe_file

COMMANDS = ("list", "train", "sample", "eval", "compare", "verify", "convert")
Command = Callable[..., Any]

# torch takes seconds, numpy and yaml tenths: nobody who asks for help should wait for them.
_LIGHT = """
import contextlib, io, sys
from suffuse.cli import main
for words in ([], *([command] for command in {commands})):
    sys.argv = ["suffuse", *words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main()
    heavy = [name for name in ("torch", "numpy", "yaml", "safetensors") if name in sys.modules]
    if heavy:
        sys.exit(f"{{words}} imported {{heavy}}")
"""


def test_no_help_imports_anything_heavy() -> None:
    code = _LIGHT.format(commands=COMMANDS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_names_every_command_and_no_words_is_help(suffuse: Command) -> None:
    asked = suffuse("--help")
    assert asked.code == 0
    assert all(f"\n  {command} " in asked.out for command in COMMANDS)
    bare = suffuse()
    assert (bare.code, bare.out.strip()) == (0, asked.out.strip())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_explained(suffuse: Command, command: str) -> None:
    said = suffuse(command, "--help")
    assert said.code == 0
    options = [line for line in said.out.splitlines() if line.startswith("  --")]
    assert options
    # An option without words is alone on its line; a long one has them on the next, indented.
    lines = said.out.splitlines()
    for line in options:
        following = lines[lines.index(line) + 1] if lines.index(line) + 1 < len(lines) else ""
        assert "  " in line.strip() or following.startswith("    "), f"{line!r} says nothing"


def test_version(suffuse: Command) -> None:
    said = suffuse("--version")
    assert (said.code, said.out) == (0, f"suffuse {__version__}\n")


def test_lists_recipes_with_what_they_are_for(suffuse: Command) -> None:
    said = suffuse("list")
    assert said == suffuse("list", "recipes")
    assert [line.split(maxsplit=1) for line in said.out.splitlines()] == [
        [name, read_recipe_file(name)["about"]] for name in list_recipes()
    ]


def test_lists_techniques_with_their_code(suffuse: Command) -> None:
    said = suffuse("list", "techniques")
    lines = said.out.splitlines()
    assert len(lines) == len(TECHNIQUES)
    for line, (key, technique) in zip(lines, TECHNIQUES.items(), strict=True):
        assert line.startswith(f"{key} ")
        assert technique.title in line
        assert technique.module in line


@pytest.mark.parametrize("what", ["solvers", "data"])
def test_lists_a_joint_s_parts_with_the_first_line_of_their_docstring(suffuse: Command, what: str) -> None:
    parts = JOINTS[{"solvers": "solver"}.get(what, what)].parts
    assert [line.split(maxsplit=1) for line in suffuse("list", what).out.splitlines()] == [
        [kind, (part.__doc__ or "").splitlines()[0]] for kind, part in parts.items()
    ]


def test_lists_the_parts_of_all_joints(suffuse: Command) -> None:
    lines = suffuse("list", "parts").out.splitlines()
    assert len(lines) == sum(len(joint.parts) for joint in JOINTS.values())
    for name, joint in JOINTS.items():
        for kind, part in joint.parts.items():
            first = (part.__doc__ or "").splitlines()[0]
            assert any(line.startswith(f"{name} {kind} ") and line.endswith(first) for line in lines), (name, kind)


def test_lists_what_does_not_go_together_and_why(suffuse: Command) -> None:
    lines = suffuse("list", "conflicts").out.splitlines()
    (euler,) = (line for line in lines if line.startswith("flow: solver euler "))
    assert "infinite at the first time" in euler
    (eps,) = (line for line in lines if line.startswith("vp zero terminal SNR: prediction eps "))
    assert "x0 = (x - sigma eps) / alpha is undefined there" in eps
    assert not any(line.startswith("vp table: solver") for line in lines), "every solver goes with a table"


def test_lists_claims_with_their_state(suffuse: Command) -> None:
    from suffuse.claims.ledger import CLAIMS

    lines = suffuse("list", "claims").out.splitlines()
    assert [line.split()[0] for line in lines] == [claim.key for claim in CLAIMS]
    for line, claim in zip(lines, CLAIMS, strict=True):
        assert line.endswith(claim.statement)
        assert all(f"{tier}: " in line for tier in claim.experiments)
