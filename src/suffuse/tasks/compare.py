"""Compare runs, solvers and step counts: quality against network evaluations and against seconds, by one judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suffuse.base import files
from suffuse.base.errors import UsageError
from suffuse.metrics import CostPoint
from suffuse.metrics.ruler import AXES
from suffuse.tasks.generate import generate
from suffuse.tasks.judge import Judge, ruler_of
from suffuse.tasks.runs import OpenRun, Wanted, settle

__all__ = ["Compared", "compare", "comparison_table", "save_comparison"]

# The runs themselves are what is compared, and each names its own average.
_AXES = (*AXES, "weights")


@dataclass(frozen=True)
class Compared:
    """A comparison.

    Attributes:
        points: One a run, solver and step count.
        floor: What two halves of the real data score.
        headline: The distance.
    """

    points: tuple[CostPoint, ...]
    floor: float | None
    headline: str

    def dump(self) -> dict[str, Any]:  # Any: JSON values
        """Plain data."""
        return {
            "format_version": 1,
            "headline": self.headline,
            "floor": self.floor,
            "points": [point.dump() for point in self.points],
        }


def compare(
    runs: Sequence[OpenRun],
    judge: Judge,
    *,
    nfe: Sequence[int],
    solvers: Sequence[str] = (),
    samples: int = 1000,
    seed: int = 1,
    cfg: float | None = None,
    on_point: Callable[[str], None] = lambda text: None,
) -> Compared:
    """Measure every run with every solver at every cost; all by one judge and the same noise.

    Args:
        runs: At least one; all of the same shape.
        judge: Reference data and feature space for all.
        nfe: Network evaluations per sample, rising.
        solvers: Kinds; each run's own when empty.
        samples: How many, each time.
        seed: Of the samples, the same everywhere.
        cfg: Scale of guidance; each run's own when None.
        on_point: Told before each measurement.

    Raises:
        UsageError: Nothing to compare, or runs of different shapes.
    """
    if not runs or not nfe:
        raise UsageError("there is nothing to compare; give at least one run and one nfe")
    shapes = {run.config.shape for run in runs}
    if len(shapes) > 1:
        raise UsageError(f"runs of different shapes cannot be compared by one judge: {sorted(shapes)}")
    points = []
    for run in runs:
        for solver in solvers or (None,):
            for cost in sorted(set(nfe)):
                settings = settle(run, Wanted(solver=solver, nfe=cost, cfg=cfg))
                name = f"{run.name} {settings.solver.kind}"
                on_point(f"{name}, nfe {cost}")
                made = generate(run, samples, settings, seed=seed)
                quality = judge.distance(made, ruler_of(run, settings, made, seed))
                points.append(CostPoint(name=name, nfe=made.nfe, seconds=made.seconds, quality=quality))
    return Compared(tuple(points), judge.floor, judge.headline)


def comparison_table(found: Compared) -> str:
    """Markdown table, a row a point."""
    from suffuse.metrics import side_by_side

    checked = side_by_side([point.quality for point in found.points], allow=_AXES, mixed="annotate")
    rows = [f"| run and solver | NFE | seconds | {found.headline} |", "|---|---|---|---|"]
    rows += [f"| {p.name} | {p.nfe:g} | {p.seconds:.2f} | {p.quality.value:.4g} |" for p in found.points]
    if found.floor is not None:
        rows.append(f"| two halves of the real data | | | {found.floor:.4g} |")
    ruler = found.points[0].quality.ruler
    rows += [
        "",
        f"{ruler.samples} samples of seed {ruler.seed}; features {ruler.features}; reference {ruler.data}, "
        f"{ruler.reference_count} samples; suffuse {ruler.versions.suffuse}, torch {ruler.versions.torch}.",
    ]
    if checked.note:
        rows += ["", f"Mind: {checked.note}."]
    return "\n".join(rows)


def save_comparison(found: Compared, folder: Path) -> None:
    """Write `comparison.json` and the plot `comparison.png`."""
    from suffuse.tasks.plots import cost_curves

    files.make_folder(folder)
    files.write_json(folder / "comparison.json", found.dump())
    cost_curves(found.points, found.floor, found.headline, folder / "comparison.png")
