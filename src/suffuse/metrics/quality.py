"""Quality against cost: rows of a measurement with its NFE and seconds, and the front of those worth their cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.metrics.ruler import AXES, Measurement, side_by_side

__all__ = ["CostPoint", "Fidelity", "pareto_front"]


class Fidelity(Part):
    """How near samples come to those of a full run with the same noise, pair by pair.

    Attributes:
        psnr: Peak signal-to-noise ratio in decibels; infinite for equal samples.
        ssim: Structural similarity, 1 for equal samples.
        drift: Mean distance in feature space over that of samples that have nothing to do with each other, so that 1 is
            no likeness.
    """

    psnr: float
    ssim: float
    drift: float


class CostPoint(Part):
    """What a way of sampling costs and what it gives.

    Attributes:
        name: Of the way, for tables and plots.
        plan: What of the network was left out or reused.
        nfe: Network evaluations a sample, counted.
        seconds: Wall time of all samples of the measurement.
        macs: Multiply-accumulates of the network a sample, counted; None where nobody counted.
        quality: The measurement.
        fidelity: To the full run; None where it was not asked for.
    """

    name: str
    plan: str = "none"
    nfe: float = Field(ge=0)
    seconds: float = Field(ge=0)
    macs: float | None = Field(default=None, ge=0)
    quality: Measurement
    fidelity: Fidelity | None = None


def pareto_front(
    points: Iterable[CostPoint],
    *,
    cost: Literal["nfe", "seconds", "macs"] = "nfe",
    better: Literal["lower", "higher"] = "lower",
    allow: tuple[str, ...] = AXES,
) -> tuple[CostPoint, ...]:
    """The points that no other point beats or equals at the same or a lower cost, by rising cost.

    Args:
        points: Of one measure, on one ruler but for the axes in `allow`.
        cost: Which cost.
        better: Which way the measure is better: lower for distances, higher for precision and its like.
        allow: Fields of the ruler that may differ.

    Raises:
        UsageError: No points, several measures, or rulers that differ elsewhere.
    """
    rows = tuple(points)
    names = sorted({row.quality.name for row in rows})
    if len(names) > 1:
        raise UsageError(f"a front is of one measure, not of {', '.join(names)}; pick one")
    side_by_side((row.quality for row in rows), allow=allow)
    sign = 1 if better == "lower" else -1
    front: list[CostPoint] = []
    for row in sorted(rows, key=lambda row: (getattr(row, cost), sign * row.quality.value)):
        if not front or sign * row.quality.value < sign * front[-1].quality.value:
            front.append(row)
    return tuple(front)
