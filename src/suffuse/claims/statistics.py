"""Means over seeds with their uncertainty: Student's t, paired where the seeds are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from suffuse.base.errors import UsageError

__all__ = ["CONFIDENCE", "Interval", "mean_interval", "ratio_interval"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and the range that holds the truth with probability `CONFIDENCE`, if seeds scatter normally.

    Attributes:
        estimate: The mean, or the geometric mean of ratios.
        low, high: Ends of the range; -inf and inf (0 and inf for ratios) when there is one seed.
        seeds: How many values it was taken from.
    """

    estimate: float
    low: float
    high: float
    seeds: int


def _half_width(values: Sequence[float]) -> float:
    """Half of the t-interval of a mean; 0 for values that are all the same, infinite for one."""
    from scipy import stats  # 0.5 s; scikit-learn brings it

    n = len(values)
    if n < 2:
        return math.inf
    spread = statistics.stdev(values)
    return 0.0 if spread == 0 else float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * spread / math.sqrt(n)


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds, with Student's t-interval.

    Raises:
        UsageError: There are no values.
    """
    if not values:
        raise UsageError("a mean needs at least one value")
    mean, half = statistics.fmean(values), _half_width(values)
    return Interval(mean, mean - half, mean + half, len(values))


def ratio_interval(values: Sequence[float], over: Sequence[float]) -> Interval:
    """Geometric mean of paired ratios, with the t-interval of their logarithms: what the seeds share cancels.

    Args:
        values: One a seed, not negative.
        over: Of the same seeds in the same order, above 0.

    Raises:
        UsageError: Counts differ or are zero, or a value has no logarithm.
    """
    if len(values) != len(over) or not values:
        raise UsageError(f"{len(values)} values cannot be paired with {len(over)}; give one of each a seed")
    if min(over) <= 0 or min(values) < 0:
        raise UsageError(f"ratios need values above 0, not {min(values):g} over {min(over):g}")
    if min(values) == 0:  # the ratio is 0 for that seed, and so is the geometric mean
        sure = len(values) > 1 and max(values) == 0  # logarithms of others have no interval with that of 0
        return Interval(0.0, 0.0, 0.0 if sure else math.inf, len(values))
    logs = [math.log(value / below) for value, below in zip(values, over, strict=True)]
    mean, half = statistics.fmean(logs), _half_width(logs)
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half) if half < 700 else math.inf, len(logs))
