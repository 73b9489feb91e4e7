"""A writer of sealed folders that is killed at random moments, and the harness that kills it and counts what is lost.

`python kill_writer.py write ROOT` saves for ever. `python kill_writer.py kill ROOT --kills 50 --seed 0` starts writers
in turn, kills each with SIGKILL, inspects what is left, and prints a tally as JSON. Neither needs torch, so that fifty
starts take seconds. The root's `log` gets a line when the work of an interval is done and its save begins: what was
begun and is not in the newest whole folder is lost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from suffuse.base import files

PARTS = ("model", "optimizer", "ema")
KEPT = 2
LONGEST_LIFE = 3.0  # of a writer, in times that a save takes on this disk


def payload(step: int, part: str) -> bytes:
    """What a file must hold; different in every step and part."""
    return f"{part} {step:08d}\n".encode() * 4096


def sealed(root: Path) -> list[tuple[int, Path]]:
    """Step and folder of all that have their final name, newest first."""
    return sorted(((int(path.name.removeprefix("step-")), path) for path in root.glob("step-*")), reverse=True)


def save(root: Path, step: int) -> None:
    """Save one interval and remove the oldest."""
    files.append_line(root / "log", str(step))
    with files.staged(root / f"step-{step:08d}") as staging:
        for part in PARTS:
            files.write_bytes(staging / part, payload(step, part))
    for _, folder in sealed(root)[KEPT:]:
        files.discard(folder)


def write(root: Path) -> None:
    """Save one interval after the other, as a trainer would, until killed."""
    if "torch" in sys.modules:
        raise AssertionError("the file layer loaded torch")
    files.clean_staging(root)
    first = sealed(root)[0][0] + 1
    print("ready", flush=True)
    for step in itertools.count(first):
        save(root, step)


def seconds_a_save(root: Path, count: int = 5) -> float:
    """Make the first saves and time them: a kill is to fall into a save on fast and on busy disks."""
    start = time.perf_counter()
    for step in range(count):
        save(root, step)
    return (time.perf_counter() - start) / count


def kill_one(root: Path, wait: float) -> None:
    """Start a writer and kill it `wait` seconds after it is ready."""
    with subprocess.Popen([sys.executable, __file__, "write", str(root)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        if writer.stdout.readline() != b"ready\n":
            raise AssertionError(f"the writer died by itself with exit code {writer.wait()}")
        time.sleep(wait)
        writer.kill()


def lost(root: Path) -> int:
    """Intervals that were begun and are not saved; everything with a final name must be whole and right."""
    folders = sealed(root)
    for step, folder in folders:
        files.verify(folder)
        for part in PARTS:
            if (folder / part).read_bytes() != payload(step, part):
                raise AssertionError(f"{folder / part} holds something else than was saved")
    return int(files.read_lines(root / "log")[-1]) - folders[0][0]


def kill(root: Path, kills: int, seed: int) -> dict[str, object]:
    """Kill `kills` writers in the same root; returns counts."""
    lives = random.Random(seed)
    longest = LONGEST_LIFE * seconds_a_save(root)
    start = time.perf_counter()
    losses: Counter[int] = Counter()
    amid = 0
    for _ in range(kills):
        kill_one(root, lives.uniform(0, longest))
        losses[lost(root)] += 1
        amid += any(root.glob(".staging-*"))
    return {
        "kills": kills,
        "amid_a_save": amid,
        "saves": sealed(root)[0][0] + 1,
        "lost_intervals": {str(count): losses[count] for count in sorted(losses)},
        "most_lost": max(losses),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("write", "kill"))
    parser.add_argument("root", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.command == "write":
        write(args.root)
    else:
        print(json.dumps(kill(args.root, args.kills, args.seed)))


if __name__ == "__main__":
    main()
