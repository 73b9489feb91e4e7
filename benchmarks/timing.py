"""Alternating measurements: A and B take turns in one process, so that a slow minute hits both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Times", "alternate", "ratio"]


@dataclass(frozen=True)
class Times:
    """Seconds of each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.rounds)


def alternate(ways: Mapping[str, Callable[[], object]], *, rounds: int = 7) -> dict[str, Times]:
    """Run each way once to warm up, then all of them in turn, `rounds` times."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def ratio(a: Times, b: Times) -> tuple[float, float, float]:
    """Median of the rounds' ratios a / b, with the least and the largest."""
    each = [x / y for x, y in zip(a.rounds, b.rounds, strict=True)]
    return statistics.median(each), min(each), max(each)
