"""The plots that reports show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from suffuse.base.figures import new_figure, save_figure
from suffuse.metrics import CostPoint

__all__ = ["COSTS", "Cost", "cost_curves", "loss_curve", "sample_rows", "scatter"]


Cost = Literal["nfe", "macs", "seconds"]
COSTS: dict[Cost, str] = {"nfe": "network evaluations per sample", "macs": "MMACs per sample", "seconds": "seconds"}
"""What a sample may cost, and its name on an axis."""

_MARKS = "os^Dv*Ph"


def cost_curves(
    points: Sequence[CostPoint],
    floor: float | None,
    headline: str,
    fronts: Mapping[Cost, Sequence[CostPoint]],
    path: Path,
) -> None:
    """Distance against what it costs: a colour a run and solver, a mark a plan.

    Args:
        points: What to draw.
        floor: Drawn as a dashed line; None for none.
        headline: Name of the distance.
        fronts: For each cost that is drawn, the points that nothing beats at the same or a lower one; they are ringed.
        path: PNG file.
    """
    lines = list(dict.fromkeys((point.name, point.plan) for point in points))
    colours = {name: f"C{place % 10}" for place, name in enumerate(dict.fromkeys(name for name, _ in lines))}
    marks = {plan: _MARKS[place % 8] for place, plan in enumerate(dict.fromkeys(plan for _, plan in lines))}
    from matplotlib.ticker import LogLocator

    figure = new_figure(4.8 * len(fronts), 3.6 + 0.09 * max(len(lines) - 6, 0))
    axes = figure.subplots(1, len(fronts), sharey=True)
    for axis, (cost, front) in zip(axes, fronts.items(), strict=True):
        unit = 1e6 if cost == "macs" else 1
        for name, plan in lines:
            rows = sorted((p for p in points if (p.name, p.plan) == (name, plan)), key=lambda p: p.nfe)
            words = name if plan == "none" else f"{name}, {plan}"
            places, values = [getattr(p, cost) / unit for p in rows], [p.quality.value for p in rows]
            axis.plot(places, values, f"{marks[plan]}-", c=colours[name], label=words, ms=5, lw=0.8)
        places, values = [getattr(p, cost) / unit for p in front], [p.quality.value for p in front]
        if front:
            axis.step(
                places, values, "o-", where="post", c="black", mfc="none", ms=10, lw=0.6, label="best at its cost"
            )
        if floor is not None:
            axis.axhline(floor, ls="--", c="grey", lw=1, label="two halves of the real data, half the count")
        axis.set(xlabel=COSTS[cost], xscale="log", yscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.grid(alpha=0.3)
    if "nfe" in fronts:
        ticks = sorted({point.nfe for point in points})
        axes[0].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[0].set_ylabel(headline)
    if len(lines) <= 4:
        axes[0].legend(fontsize=8)
    else:
        handles, words = axes[0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside lower center", ncols=3, fontsize=8)
    save_figure(figure, path)


def sample_rows(rows: Sequence[tuple[str, NDArray[np.uint8]]], path: Path) -> None:
    """Pictures in rows, each with its label.

    Args:
        rows: Label and pictures (n, H, W, C) of each; the first row stands apart.
        path: PNG file.
    """
    from suffuse.data.pictures import contact_sheet

    sheets = [contact_sheet(pictures, columns=len(pictures)) for _, pictures in rows]
    told, drawn = 2.4, 9.0  # inches of a row's label, and of its pictures
    height = drawn * sheets[0].height / sheets[0].width
    figure = new_figure(told + drawn, len(rows) * (height + 0.06) + 0.1)
    axes = figure.subplots(len(rows), 2, squeeze=False, width_ratios=(told, drawn))
    for (words, pictures), (label, _), sheet in zip(axes, rows, sheets, strict=True):
        words.text(1.0, 0.5, label, ha="right", va="center", fontsize=8)
        pictures.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        words.set_axis_off()
        pictures.set_axis_off()
    save_figure(figure, path)


def loss_curve(rows: Sequence[dict[str, Any]], path: Path) -> None:  # Any: numbers and strings
    """Loss over steps from the lines of `metrics.jsonl`."""
    figure = new_figure(5, 3)
    axis = figure.subplots()
    axis.plot([row["step"] for row in rows], [row["loss"] for row in rows], lw=1.2)
    axis.set(xlabel="step", ylabel="loss", yscale="log")
    axis.grid(alpha=0.3)
    save_figure(figure, path)


def scatter(points: Tensor, path: Path) -> None:
    """The first two coordinates of points, (n, D)."""
    figure = new_figure(4, 4)
    axis = figure.subplots()
    axis.scatter(points[:, 0].numpy(), points[:, min(1, points.shape[1] - 1)].numpy(), s=2, alpha=0.4)
    axis.set_aspect("equal")
    save_figure(figure, path)
