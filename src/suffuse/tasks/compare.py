"""Compare runs, solvers and step counts: quality against network evaluations and against seconds, by one judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError
from suffuse.base.part import parse
from suffuse.data import to_uint8
from suffuse.metrics import CostPoint, side_by_side
from suffuse.metrics.ruler import AXES
from suffuse.tasks.generate import generate
from suffuse.tasks.judge import Judge, ruler_of
from suffuse.tasks.runs import OpenRun, Wanted, settle
from suffuse.training.settings import SamplingSettings

__all__ = [
    "SHEET",
    "Compared",
    "Contender",
    "compare",
    "comparison_table",
    "contenders",
    "read_comparison",
    "ruler_words",
    "save_comparison",
]

# The runs themselves are what is compared, and each names its own average.
_AXES = (*AXES, "weights")
_FILE, _VERSION = "comparison.json", 1
_WARM_UP = 8  # samples that are not timed
_SHOWN = 20  # samples a row of the sheet
SHEET = "comparison-samples.png"
"""The sheet of samples, one row a point."""


@dataclass(frozen=True)
class Contender:
    """A run, and one way of sampling it.

    Attributes:
        name: Of run and solver, for tables and plots.
        run: The run.
        settings: The way.
    """

    name: str
    run: OpenRun
    settings: SamplingSettings


@dataclass(frozen=True)
class Compared:
    """A comparison.

    Attributes:
        points: One a run, solver and step count.
        floor: What two halves of the real data score.
        headline: The distance.
        shown: A few samples of each point, and of the data first, (n, ...) each; nothing when read from a file.
    """

    points: tuple[CostPoint, ...]
    floor: float | None
    headline: str
    shown: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)

    def dump(self) -> dict[str, Any]:  # Any: JSON values
        """Plain data."""
        return {
            "format_version": _VERSION,
            "headline": self.headline,
            "floor": self.floor,
            "points": [point.dump() for point in self.points],
        }


def contenders(
    runs: Sequence[OpenRun], *, nfe: Sequence[int], solvers: Sequence[str] = (), cfg: float | None = None
) -> tuple[Contender, ...]:
    """Every run with every solver at every cost, checked before anything is sampled.

    Args:
        runs: At least one; all of the same shape.
        nfe: Network evaluations per sample.
        solvers: Kinds; each run's own when empty.
        cfg: Scale of guidance; each run's own when None.

    Raises:
        UsageError: Nothing to compare, runs of different shapes, or a way in which a run cannot be sampled.
    """
    if not runs or not nfe:
        raise UsageError("there is nothing to compare; give at least one run and one nfe")
    shapes = {run.shape for run in runs}
    if len(shapes) > 1:
        raise UsageError(f"runs of different shapes cannot be compared by one judge: {sorted(shapes)}")
    names = [run.name for run in runs]
    found = []
    for run in runs:
        # Runs of one name in two folders would be drawn as one line.
        name = run.name if names.count(run.name) == 1 else str(run.folder)
        for solver in solvers or (None,):
            for cost in sorted(set(nfe)):
                settings = settle(run, Wanted(solver=solver, nfe=cost, cfg=cfg))
                found.append(Contender(f"{name} {settings.solver.kind}", run, settings))
    return tuple(found)


def compare(
    ways: Sequence[Contender],
    judge: Judge,
    *,
    samples: int = 1000,
    seed: int = 1,
    on_point: Callable[[str], None] = lambda text: None,
) -> Compared:
    """Measure all contenders by one judge and with the same noise.

    Args:
        ways: What to compare, see `contenders`.
        judge: Reference data and feature space for all.
        samples: How many, each time.
        seed: Of the samples, the same everywhere.
        on_point: Told before each measurement.
    """
    points, shown = [], [judge.examples(_SHOWN)]
    # A run's first call pays for what later ones find ready: kernels, memory, libraries. It is not timed.
    for way in {way.run.folder: way for way in ways}.values():
        generate(way.run, min(samples, _WARM_UP), way.settings, seed=seed)
    for way in ways:
        on_point(f"{way.name}, {way.settings.grid.steps} steps")
        made = generate(way.run, samples, way.settings, seed=seed)
        quality = judge.distance(made, ruler_of(way.run, way.settings, made, seed))
        points.append(CostPoint(name=way.name, nfe=made.nfe, seconds=made.seconds, quality=quality))
        shown.append(made.x[:_SHOWN])
    return Compared(tuple(points), judge.floor, judge.headline, tuple(shown))


def ruler_words(found: Compared) -> tuple[str, ...]:
    """What the points were measured with, and a warning where that differs: a sentence each."""
    checked = side_by_side([point.quality for point in found.points], allow=_AXES, mixed="annotate")
    ruler = found.points[0].quality.ruler
    words = (
        f"{ruler.samples} samples of seed {ruler.seed}; features {ruler.features}; reference {ruler.data}, "
        f"{ruler.reference_count} samples; network in {ruler.precision}; "
        f"suffuse {ruler.versions.suffuse}, torch {ruler.versions.torch}.",
    )
    return (*words, f"Mind: {checked.note}.") if checked.note else words


def comparison_table(found: Compared) -> str:
    """Markdown table, a row a point, and what was measured with."""
    rows = [f"| run and solver | NFE | seconds | {found.headline} |", "|---|---|---|---|"]
    rows += [f"| {p.name} | {p.nfe:g} | {p.seconds:.2f} | {p.quality.value:.4g} |" for p in found.points]
    if found.floor is not None:
        rows.append(f"| two halves of the real data, half the count | | | {found.floor:.4g} |")
    for words in ruler_words(found):
        rows += ["", words]
    return "\n".join(rows)


def save_comparison(found: Compared, folder: Path) -> None:
    """Write `comparison.json`, the plot `comparison.png` and, of images, the sheet `comparison-samples.png`."""
    from suffuse.tasks.plots import cost_curves, sample_rows

    files.make_folder(folder)
    files.write_json(folder / _FILE, found.dump())
    cost_curves(found.points, found.floor, found.headline, folder / "comparison.png")
    if found.shown and found.shown[0].ndim == 4:
        labels = ["real"] + [
            f"{p.name}, NFE {p.nfe:g}\n{found.headline} {p.quality.value:.3g}, {p.seconds:.2f} s" for p in found.points
        ]
        sample_rows([*zip(labels, map(to_uint8, found.shown), strict=True)], folder / SHEET)


def read_comparison(folder: Path) -> Compared | None:
    """What `save_comparison` wrote; None when there is nothing.

    Raises:
        UsageError: It was written by a newer version.
        RunError: It is damaged.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    data = files.read_json(path)
    files.check_version(data, path=path, newest=_VERSION)
    points = tuple(parse(CostPoint, point, owner=str(path)) for point in data.get("points", ()))
    if not points:
        raise RunError(f"{path} holds no points; compare again to write it anew")
    return Compared(points, data.get("floor"), str(data.get("headline")))
