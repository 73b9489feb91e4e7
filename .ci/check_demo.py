"""Looks at what the demo wrote: every file there and readable, figures finite, samples not noise."""

import json
import math
import sys
from pathlib import Path

from PIL import Image

RUN = ("README.md", "config.json", "environment.json", "metrics.jsonl", "model.safetensors", "recipe.yaml")
PICTURES = ("comparison-samples.png", "comparison.png", "evaluation/nearest.png", "evaluation/samples.png")
JUDGED = ("comparison.json", "evaluation/figures.json", "report.html", *PICTURES)


def main(few_step: Path, diffusion: Path) -> None:
    """Exit with a message at the first thing that is wrong: the few-step run was judged, the other only trained."""
    check_run(few_step)
    check_run(diffusion)
    check_judged(few_step)


def check_files(folder: Path, names: tuple[str, ...]) -> None:
    """Every file there, and none empty."""
    for name in names:
        if not (folder / name).is_file() or not (folder / name).stat().st_size:
            sys.exit(f"the demo did not write {folder / name}")


def check_run(folder: Path) -> None:
    """A finished run whose loss fell."""
    check_files(folder, RUN)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if not rows[-1]["loss"] < rows[0]["loss"]:
        sys.exit(f"the loss of {folder} did not fall")


def check_judged(folder: Path) -> None:
    """Pictures that open, figures that are finite, a comparison of two models at four counts of evaluations."""
    check_files(folder, JUDGED)
    for name in PICTURES:
        Image.open(folder / name).verify()
    figures = json.loads((folder / "evaluation" / "figures.json").read_text())
    values = {item["name"]: item["value"] for item in figures["measurements"]}
    if not all(math.isfinite(value) for value in values.values()):
        sys.exit(f"a figure is not finite: {values}")
    points = json.loads((folder / "comparison.json").read_text())["points"]
    if len(points) < 8:
        sys.exit(f"the comparison has only {len(points)} points")
    print("the demo wrote what it should:", json.dumps(values))


main(*map(Path, sys.argv[1:]))
