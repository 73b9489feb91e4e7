"""Compare runs, solvers, step counts and plans: quality against what it costs, by one judge."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from suffuse.acceleration import MacCounter, NoPlan
from suffuse.base import files
from suffuse.base.errors import RunError, UsageError
from suffuse.base.part import parse
from suffuse.data import to_uint8
from suffuse.metrics import CostPoint, pareto_front, side_by_side
from suffuse.metrics.ruler import AXES
from suffuse.tasks.fidelity import FidelityMeter
from suffuse.tasks.generate import generate
from suffuse.tasks.judge import ImageJudge, Judge, ruler_of
from suffuse.tasks.runs import OpenRun, Wanted, named, settle
from suffuse.training.settings import SamplingSettings

__all__ = [
    "SHEET",
    "Compared",
    "Contender",
    "compare",
    "comparison_rows",
    "comparison_table",
    "contenders",
    "front_of",
    "read_comparison",
    "ruler_words",
    "save_comparison",
]

# The runs themselves are what is compared, and each names its own average.
_AXES = (*AXES, "weights")
_FILE, _VERSION = "comparison.json", 1
_WARM_UP = 8  # samples that are not timed
_SHOWN = 20  # samples a row of the sheet
_ROWS = 16  # rows of the sheet, beside the data: of more points only the best at their cost are shown
_FIDELITY = (
    "PSNR in decibels, SSIM and drift hold samples against those of the same run, solver and noise without a plan at "
    "the largest NFE; drift is the distance in features over that of unrelated samples."
)
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
        points: One a run, solver, plan and step count.
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
    runs: Sequence[OpenRun],
    *,
    nfe: Sequence[int],
    solvers: Sequence[str | Mapping[str, Any]] = (),
    plans: Sequence[str | Mapping[str, Any]] = (),
    cfg: float | None = None,
) -> tuple[Contender, ...]:
    """Every run with every solver and plan at every cost, checked before anything is sampled.

    Args:
        runs: At least one; all of the same shape.
        nfe: Network evaluations per sample.
        solvers: Kinds or fields; each run's own when empty.
        plans: Kinds or fields; each run's own when empty. Otherwise "none" is among them.
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
        for solver, plan in itertools.product(solvers or (None,), _with_none(plans) or (None,)):
            for cost in sorted(set(nfe)):
                settings = settle(run, Wanted(solver=solver, plan=plan, nfe=cost, cfg=cfg))
                found.append(Contender(f"{name} {named(settings.solver)}", run, settings))
    return tuple(found)


def _with_none(plans: Sequence[str | Mapping[str, Any]]) -> tuple[str | Mapping[str, Any], ...]:
    """Plans, and to compare with them none."""
    return tuple(plans) if not plans or "none" in plans else ("none", *plans)


def compare(
    ways: Sequence[Contender],
    judge: Judge,
    *,
    samples: int = 1000,
    seed: int = 1,
    on_point: Callable[[str], None] = lambda text: None,
) -> Compared:
    """Measure all contenders by one judge and with the same noise.

    Where plans are compared, images are also held against those of a full run: the same run and solver without a plan,
    at the largest cost.

    Args:
        ways: What to compare, see `contenders`.
        judge: Reference data and feature space for all.
        samples: How many, each time.
        seed: Of the samples, the same everywhere.
        on_point: Told before each measurement.
    """
    planned = len({way.settings.plan == NoPlan() for way in ways}) > 1
    counter = MacCounter() if planned else None
    # A run's first call, and the first under a plan, pays for what later ones find ready: it is not timed.
    for way in ways if planned else {way.run.folder: way for way in ways}.values():
        generate(way.run, min(samples, _WARM_UP), way.settings, seed=seed, counter=counter)
    meters: dict[str, FidelityMeter] = {}
    points: dict[int, CostPoint] = {}
    shown: dict[int, Tensor] = {}
    # The full runs first, as all others are held against them.
    order = sorted(enumerate(ways), key=lambda pair: (pair[1].settings.plan != NoPlan(), -pair[0]))
    for place, way in order if planned else enumerate(ways):
        on_point(f"{way.name}, {way.settings.grid.steps} steps, plan {named(way.settings.plan)}")
        made = generate(way.run, samples, way.settings, seed=seed, counter=counter)
        fidelity = None
        if planned and isinstance(judge, ImageJudge):
            if way.settings.plan == NoPlan() and way.name not in meters:
                meters[way.name] = FidelityMeter(made.x, judge.extractor)
            if way.name in meters:
                fidelity = meters[way.name].measure(made.x)
        points[place] = CostPoint(
            name=way.name,
            plan=named(way.settings.plan),
            nfe=made.nfe,
            seconds=made.seconds,
            macs=made.macs,
            quality=judge.distance(made, ruler_of(way.run, way.settings, made, seed)),
            fidelity=fidelity,
        )
        shown[place] = made.x[:_SHOWN]
    pictures = (judge.examples(_SHOWN), *(shown[place] for place in range(len(ways))))
    return Compared(tuple(points[place] for place in range(len(ways))), judge.floor, judge.headline, pictures)


def front_of(found: Compared, cost: Literal["nfe", "seconds", "macs"]) -> tuple[CostPoint, ...]:
    """Points that nothing beats at the same or a lower cost; none where numbers have different rulers."""
    if side_by_side([point.quality for point in found.points], allow=_AXES, mixed="annotate").note:
        return ()
    return pareto_front(found.points, cost=cost, allow=_AXES)


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


def comparison_rows(found: Compared) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of a comparison's table, a row a point; the front of distance against seconds is marked."""
    counted = any(point.macs is not None for point in found.points)
    planned = len({point.plan for point in found.points}) > 1
    faithful = any(point.fidelity is not None for point in found.points)
    front = front_of(found, "seconds") if planned else ()
    head = [
        "run and solver",
        *(["plan"] if planned else []),
        "NFE",
        *(["MMACs a sample"] if counted else []),
        "seconds",
    ]
    head += [
        *(["PSNR", "SSIM", "drift"] if faithful else []),
        found.headline,
        *(["best at its time"] if planned else []),
    ]
    rows = []
    for point in found.points:
        row = [point.name, *([point.plan] if planned else []), f"{point.nfe:g}"]
        row += [f"{point.macs / 1e6:.4g}" if point.macs is not None else ""] if counted else []
        row.append(f"{point.seconds:.2f}")
        if faithful:
            near = point.fidelity
            row += ["", "", ""] if near is None else [f"{near.psnr:.1f}", f"{near.ssim:.4f}", f"{near.drift:.3f}"]
        best = ["yes" if point in front else ""] if planned else []
        rows.append((*row, f"{point.quality.value:.4g}", *best))
    if found.floor is not None:
        blank, after = ("",) * (len(head) - 2 - planned), ("",) * planned
        rows.append(("two halves of the real data, half the count", *blank, f"{found.floor:.4g}", *after))
    return tuple(head), rows


def comparison_table(found: Compared) -> str:
    """Markdown table, a row a point, and what was measured with."""
    head, rows = comparison_rows(found)
    lines = [" ".join(["|", *(f"{cell} |" if cell else "|" for cell in row)]) for row in (head, *rows)]
    lines.insert(1, f"|{'---|' * len(head)}")
    if any(point.fidelity is not None for point in found.points):
        lines += ["", _FIDELITY]
    for words in ruler_words(found):
        lines += ["", words]
    return "\n".join(lines)


def save_comparison(found: Compared, folder: Path) -> None:
    """Write `comparison.json`, the plot `comparison.png` and, of images, the sheet `comparison-samples.png`."""
    from suffuse.tasks.plots import Cost, cost_curves, sample_rows

    files.make_folder(folder)
    files.write_json(folder / _FILE, found.dump())
    # Under plans an evaluation is no unit of cost; without them multiply-accumulates are evaluations in another unit.
    costs: tuple[Cost, ...] = ("macs", "seconds") if _counted(found) else ("nfe", "seconds")
    fronts = {cost: front_of(found, cost) for cost in costs}
    cost_curves(found.points, found.floor, found.headline, fronts, folder / "comparison.png")
    if found.shown and found.shown[0].ndim == 4:
        sample_rows([("real", to_uint8(found.shown[0])), *_sheet_rows(found)], folder / SHEET)


def _counted(found: Compared) -> bool:
    """Whether multiply-accumulates say more than evaluations: where plans leave out some of them."""
    return len({point.plan for point in found.points}) > 1 and all(point.macs is not None for point in found.points)


def _sheet_rows(found: Compared) -> list[tuple[str, NDArray[np.uint8]]]:
    """Label and pictures of all points; of many points those that are the best at their cost."""
    pairs = list(zip(found.points, found.shown[1:], strict=True))
    if len(pairs) > _ROWS:
        best = front_of(found, "seconds")
        pairs = [(point, pictures) for point, pictures in pairs if point in best]
    return [
        (
            f"{p.name}, NFE {p.nfe:g}{'' if p.plan == 'none' else chr(10) + p.plan}\n"
            f"{found.headline} {p.quality.value:.3g}, {p.seconds:.2f} s",
            to_uint8(pictures),
        )
        for p, pictures in pairs
    ]


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
