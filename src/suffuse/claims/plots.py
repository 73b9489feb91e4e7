"""Pictures of results: curves over a value's place, and bars with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from suffuse.base.figures import new_figure, save_figure
from suffuse.claims.protocol import Experiment, Plot, Values
from suffuse.claims.statistics import Interval, mean_interval

__all__ = ["draw", "plot_file"]


def plot_file(folder: Path, claim: str, tier: str, plot: Plot) -> Path:
    """Where a picture is kept."""
    return folder / f"{claim}.{tier}.{plot.name}.png"


def draw(plot: Plot, experiment: Experiment, values: Values, path: Path) -> bool:
    """Draw a picture of means over seeds with their 95 % intervals.

    Returns:
        Whether there was anything to draw.
    """
    names = [arm.name for arm in experiment.arms if arm.name in (plot.arms or values)]
    curves = {(arm, name): _curve(values, arm, name) for arm in names for name in plot.values}
    curves = {key: curve for key, curve in curves.items() if curve}
    bars = {(arm, name): _bar(values, arm, name) for arm in names for name in plot.values}
    shown = {key: bar for key, bar in bars.items() if bar is not None}
    if curves:
        _draw_curves(plot, curves, path)
    elif shown:
        _draw_bars(plot, shown, path)
    return bool(curves or shown)


def _curve(values: Values, arm: str, name: str) -> dict[float, Interval]:
    """Place -> mean over seeds, of all values `name@place`."""
    rows = list(values[arm].values())
    keys = {key for row in rows for key in row if key.startswith(f"{name}@")}
    places = sorted(float(key.removeprefix(f"{name}@")) for key in keys)
    return {x: mean_interval([row[f"{name}@{x:g}"] for row in rows]) for x in places}


def _bar(values: Values, arm: str, name: str) -> Interval | None:
    column = [row[name] for row in values[arm].values() if name in row]
    return mean_interval(column) if column else None


def _draw_curves(plot: Plot, curves: dict[tuple[str, str], dict[float, Interval]], path: Path) -> None:
    figure = new_figure(6.4, 4.0)
    axis = figure.subplots()
    for (arm, name), curve in curves.items():
        # On a logarithmic axis the first step, 0, would vanish.
        shift = 1.0 if "x" in plot.log and min(curve) == 0 else 0.0
        places = [x + shift for x in curve]
        label = arm if len(plot.values) == 1 else f"{arm}, {name}"
        line = axis.plot(places, [point.estimate for point in curve.values()], "o-", ms=3, lw=1.2, label=label)[0]
        if all(point.seeds > 1 for point in curve.values()):
            high = [point.high for point in curve.values()]
            # What is never negative has no negative uncertainty; Student's t does not know that.
            floor = 0.0 if all(point.estimate >= 0 for point in curve.values()) else float("-inf")
            low = [max(point.low, floor) for point in curve.values()]
            axis.fill_between(places, low, high, color=line.get_color(), alpha=0.15, lw=0)
    _finish(plot, axis)
    axis.set(xscale="log" if "x" in plot.log else "linear")
    if "y" in plot.log:  # zeros have no logarithm, and are what sharing is about
        least = min(point.estimate for curve in curves.values() for point in curve.values())
        axis.set_yscale("symlog", linthresh=1) if least <= 0 else axis.set_yscale("log")
        if least == 0:
            axis.set_ylim(bottom=-0.2)  # the zeros stand a little above the frame
    axis.legend(fontsize=7)
    save_figure(figure, path)


def _draw_bars(plot: Plot, bars: dict[tuple[str, str], Interval], path: Path) -> None:
    figure = new_figure(6.4, 1.2 + 0.28 * len(bars))
    axis = figure.subplots()
    labels = [arm if len(plot.values) == 1 else f"{arm}, {name}" for arm, name in bars]
    found = list(bars.values())
    errors = [bar.high - bar.estimate if bar.seeds > 1 else 0.0 for bar in found]
    axis.barh(labels, [bar.estimate for bar in found], xerr=errors, color="#7aa6c2", ecolor="#333333", capsize=3)
    axis.invert_yaxis()
    axis.set(xlabel=plot.ylabel, title=plot.title, xscale="log" if "y" in plot.log else "linear")
    axis.grid(alpha=0.3, axis="x")
    save_figure(figure, path)


def _finish(plot: Plot, axis: Any) -> None:  # Any: matplotlib's axes
    axis.set(xlabel=plot.xlabel, ylabel=plot.ylabel, title=plot.title)
    axis.grid(alpha=0.3)
