"""Run benchmarks and write RESULTS.md: a section for each group, which keeps its figures until it is run again."""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import suffuse
from benchmarks import cascades, consistency, latents, others, plans, sampling, training
from suffuse.base.hardware import processor

__all__ = ["main"]

Rows = Iterable[tuple[str, str, str]]

_PAGE = Path(__file__).with_name("RESULTS.md")
_NOTES = Path(__file__).with_name("notes.md")
_HEAD = """# Benchmarks

Ratios are medians over rounds in which both sides took turns within one process, with the least and the
largest round. Above 1 is faster for us where a peer is divided by us. `make bench` writes this page;
`python -m benchmarks.run --only NAME` one section of it, on a quiet machine. Sections on a GPU stay as they are where
there is none.
"""
_GROUPS: dict[str, Callable[[int], Rows]] = {
    "sampling": sampling.measure,
    "training": training.measure,
    "consistency": consistency.measure,
    "latents": latents.measure,
    "plans": plans.measure,
    "plans-gpu": plans.measure_gpu,
    "cascades": cascades.measure,
    "cascades-gpu": cascades.measure_gpu,
    "others": lambda rounds: others.measure(),
}


def _on_gpu(name: str) -> bool:
    return name.endswith("-gpu")


def _title(name: str) -> str:
    return f"{name.removesuffix('-gpu').capitalize()} on a GPU" if _on_gpu(name) else name.capitalize()


def _here(name: str) -> str:
    """What a group is measured on."""
    if not _on_gpu(name):
        return f"{processor()}, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def _section(name: str, rounds: int) -> str:
    """Measure a group; its lines are printed as they come, so that a stopped run has told what it found."""
    import diffusers

    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    tell(f"## {_title(name)}")
    tell("")
    tell(
        f"{datetime.now(UTC):%Y-%m-%d}, {_here(name)}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}, diffusers {diffusers.__version__}, suffuse {suffuse.__version__}, {rounds} rounds."
    )
    tell("")
    tell("| what | measured | goal |")
    tell("|---|---|---|")
    for what, figure, goal in _GROUPS[name](rounds):
        tell(f"| {what} | {figure} | {goal} |")
    return "\n".join(lines)


def _kept() -> dict[str, str]:
    """Sections of the page as it is, by group."""
    if not _PAGE.is_file():
        return {}
    parts = re.split(r"^(?=## )", _PAGE.read_text(), flags=re.MULTILINE)
    titles = {f"## {_title(name)}": name for name in _GROUPS}
    found = {titles.get(part.splitlines()[0]): part.strip() for part in parts if part.startswith("## ")}
    return {name: part for name, part in found.items() if name is not None}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=[*_GROUPS], help="one group; the others' figures stay")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    if args.only and _on_gpu(args.only) and not gpu:
        parser.error(f"{args.only} needs a GPU and there is none here; what the page has of it stays")
    sections = _kept()
    for name in [args.only] if args.only else [name for name in _GROUPS if gpu or not _on_gpu(name)]:
        sections[name] = _section(name, args.rounds)
    notes = _NOTES.read_text() if _NOTES.is_file() else ""
    page = "\n\n".join([_HEAD.strip(), *(sections[name] for name in _GROUPS if name in sections), notes.strip()])
    _PAGE.write_text(page + "\n")


if __name__ == "__main__":
    main()
