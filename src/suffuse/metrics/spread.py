"""How widely numbers spread, and how many lie where a box plot would call them extreme."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spread", "spread"]


@dataclass(frozen=True)
class Spread:
    """A box plot in numbers.

    Attributes:
        name: What spreads.
        quartiles: Lower quartile, median, upper quartile.
        fences: Outer fences: three times the distance of the quartiles beyond them.
        outside: Share of the numbers beyond the outer fences.
        furthest: Largest distance from the mean, in standard deviations.
        extremes: Some of the numbers beyond the fences, smallest first, the furthest among them.
    """

    name: str
    quartiles: tuple[float, float, float]
    fences: tuple[float, float]
    outside: float
    furthest: float
    extremes: tuple[float, ...]


def spread(name: str, values: NDArray[np.floating], most: int = 200) -> Spread:
    """Describe numbers.

    Source: tukey1977exploratory for the fences; dao2025slct, Figure 3, looks at latents so.

    Args:
        name: What they are.
        values: Any shape, at least one number.
        most: How many of the extremes are kept.
    """
    flat = np.sort(np.asarray(values, np.float64), axis=None)
    low, middle, high = np.quantile(flat, [0.25, 0.5, 0.75]).tolist()
    reach = 3 * (high - low)
    fences = (low - reach, high + reach)
    extremes = flat[(flat < fences[0]) | (flat > fences[1])]
    deviation = float(flat.std())
    furthest = float(np.abs(flat[[0, -1]] - flat.mean()).max() / deviation) if deviation else 0.0
    kept = (
        extremes[np.unique(np.linspace(0, len(extremes) - 1, most).round().astype(int))] if len(extremes) else extremes
    )
    return Spread(name, (low, middle, high), fences, len(extremes) / len(flat), furthest, tuple(kept.tolist()))
