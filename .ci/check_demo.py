"""Looks at what the demo wrote: every file there and readable, figures finite, samples not noise."""

import json
import math
import sys
from pathlib import Path

from PIL import Image

WANTED = (
    "README.md",
    "comparison.json",
    "comparison.png",
    "config.json",
    "environment.json",
    "evaluation/figures.json",
    "evaluation/nearest.png",
    "evaluation/samples.png",
    "metrics.jsonl",
    "model.safetensors",
    "recipe.yaml",
    "report.html",
)


def main(folder: Path) -> None:
    """Exit with a message at the first thing that is wrong."""
    for name in WANTED:
        if not (folder / name).is_file() or not (folder / name).stat().st_size:
            sys.exit(f"the demo did not write {name}")
    for name in ("evaluation/samples.png", "evaluation/nearest.png", "comparison.png"):
        Image.open(folder / name).verify()
    figures = json.loads((folder / "evaluation" / "figures.json").read_text())
    values = {item["name"]: item["value"] for item in figures["measurements"]}
    if not all(math.isfinite(value) for value in values.values()):
        sys.exit(f"a figure is not finite: {values}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if not rows[-1]["loss"] < rows[0]["loss"]:
        sys.exit("the loss did not fall")
    points = json.loads((folder / "comparison.json").read_text())["points"]
    if len(points) < 6:
        sys.exit(f"the comparison has only {len(points)} points")
    print("the demo wrote what it should:", json.dumps(values))


main(Path(sys.argv[1]))
