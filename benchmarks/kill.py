"""Kill a writer of checkpoints 200 times at random moments and count what is lost.

    python benchmarks/kill.py [--kills 200] [--seed 0]

Prints a table and adds a line to `benchmarks/results/kill.jsonl`. It must read: most lost intervals 1 (the one whose
save was under way), nothing broken. A folder that has its final name and is not whole ends the run with an error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from suffuse import __version__
from suffuse.base import files

HERE = Path(__file__).resolve().parent
WRITER = HERE.parent / "tests" / "training" / "kill_writer.py"
RESULTS = HERE / "results" / "kill.jsonl"


def main() -> None:
    """Kill, count, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, WRITER, "kill", root, "--kills", str(args.kills), "--seed", str(args.seed)]
        tally = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    for name, value in tally.items():
        print(f"{name.replace('_', ' '):<16} {value}")
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "suffuse": __version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "seed": args.seed,
    }
    files.make_folder(RESULTS.parent)
    files.append_line(RESULTS, json.dumps({**facts, **tally}))


if __name__ == "__main__":
    main()
