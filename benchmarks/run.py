"""Run benchmarks and write RESULTS.md: a section for each group, which keeps its figures until it is run again."""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import suffuse
from benchmarks import consistency, others, plans, sampling, training
from suffuse.base.hardware import processor

__all__ = ["main"]

Rows = list[tuple[str, str, str]]

_PAGE = Path(__file__).with_name("RESULTS.md")
_NOTES = Path(__file__).with_name("notes.md")
_HEAD = """# Benchmarks

Ratios are medians over rounds in which both sides took turns within one process, with the least and the
largest round. Above 1 is faster for us where a peer is divided by us. `make bench` writes this page;
`python -m benchmarks.run --only NAME` one section of it, on a quiet machine.
"""
_GROUPS: dict[str, Callable[[int], Rows]] = {
    "sampling": sampling.measure,
    "training": training.measure,
    "consistency": consistency.measure,
    "plans": plans.measure,
    "others": lambda rounds: others.measure(),
}


def _section(name: str, rounds: int) -> str:
    """Measure a group."""
    import diffusers

    rows = _GROUPS[name](rounds)
    lines = [
        f"## {name.capitalize()}",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {torch.get_num_threads()} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, diffusers "
        f"{diffusers.__version__}, suffuse {suffuse.__version__}, {rounds} rounds.",
        "",
        "| what | measured | goal |",
        "|---|---|---|",
        *(f"| {what} | {figure} | {goal} |" for what, figure, goal in rows),
    ]
    return "\n".join(lines)


def _kept() -> dict[str, str]:
    """Sections of the page as it is, by group."""
    if not _PAGE.is_file():
        return {}
    parts = re.split(r"^(?=## )", _PAGE.read_text(), flags=re.MULTILINE)
    titles = {f"## {name.capitalize()}": name for name in _GROUPS}
    found = {titles.get(part.splitlines()[0]): part.strip() for part in parts if part.startswith("## ")}
    return {name: part for name, part in found.items() if name is not None}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=[*_GROUPS], help="one group; the others' figures stay")
    args = parser.parse_args()
    sections = _kept()
    for name in [args.only] if args.only else [*_GROUPS]:
        sections[name] = _section(name, args.rounds)
    notes = _NOTES.read_text() if _NOTES.is_file() else ""
    page = "\n\n".join([_HEAD.strip(), *(sections[name] for name in _GROUPS if name in sections), notes.strip()])
    _PAGE.write_text(page + "\n")
    print(page)


if __name__ == "__main__":
    main()
