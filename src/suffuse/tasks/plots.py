"""The plots that reports show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from suffuse.base.figures import new_figure, save_figure
from suffuse.metrics import CostPoint

if TYPE_CHECKING:
    pass

__all__ = ["cost_curves", "loss_curve", "sample_rows", "scatter"]


def cost_curves(points: Sequence[CostPoint], floor: float | None, headline: str, path: Path) -> None:
    """Distance against network evaluations and against seconds, a line a run and solver.

    Args:
        points: What to draw.
        floor: Drawn as a dashed line; None for none.
        headline: Name of the distance.
        path: PNG file.
    """
    figure = new_figure(9, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    names = dict.fromkeys(point.name for point in points)
    for axis, cost, label in zip(axes, ("nfe", "seconds"), ("network evaluations per sample", "seconds"), strict=True):
        for name in names:
            rows = sorted((p for p in points if p.name == name), key=lambda p: p.nfe)
            axis.plot([getattr(p, cost) for p in rows], [p.quality.value for p in rows], "o-", label=name, ms=4)
        if floor is not None:
            axis.axhline(floor, ls="--", c="grey", lw=1, label="two halves of the real data, half the count")
        axis.set(xlabel=label, xscale="log", yscale="log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.grid(alpha=0.3)
    costs = sorted({point.nfe for point in points})
    axes[0].set_xticks(costs, [f"{cost:g}" for cost in costs])
    axes[0].set_ylabel(headline)
    axes[0].legend(fontsize=8)
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
