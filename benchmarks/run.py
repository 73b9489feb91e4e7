"""Run all benchmarks and write RESULTS.md."""

from __future__ import annotations

import argparse
import platform
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import suffuse
from benchmarks import consistency, others, sampling, training
from suffuse.base.hardware import processor

__all__ = ["main"]

_NOTES = Path(__file__).with_name("notes.md")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    args = parser.parse_args()
    import diffusers

    threads = torch.get_num_threads()
    rows = sampling.measure(args.rounds) + training.measure(args.rounds) + consistency.measure(args.rounds)
    rows += others.measure()
    lines = [
        "# Benchmarks",
        "",
        "Ratios are medians over rounds in which both sides took turns within one process, with the least and the",
        "largest round. Above 1 is faster for us where a peer is divided by us. `make bench` writes this page.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {threads} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, diffusers "
        f"{diffusers.__version__}, suffuse {suffuse.__version__}, {args.rounds} rounds.",
        "",
        "| what | measured | goal |",
        "|---|---|---|",
        *(f"| {what} | {figure} | {goal} |" for what, figure, goal in rows),
        "",
        _NOTES.read_text() if _NOTES.is_file() else "",
    ]
    args.out.write_text("\n".join(lines).rstrip() + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
