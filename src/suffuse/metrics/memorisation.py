"""Memorisation: how near generated samples come to the training data, measured by how near real data come to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.metrics.points import Features, nearest_neighbours, points_of, same_space

__all__ = ["MemorisationReport", "Pair", "memorisation"]

Against = Literal["training", "reference"]
# Queries looked up at a time, in numbers: their pairs with neighbours are gigabytes for large images otherwise.
_NUMBERS = 2**24


@dataclass(frozen=True)
class Pair:
    """A generated sample and its nearest training sample.

    Attributes:
        generated: Index of the generated sample.
        training: Index of the training sample.
        distance: Between them, in units of the space; 0 for an exact copy.
        ratio: Distance over the median nearest-neighbour distance of real data; infinite where that is 0.
    """

    generated: int
    training: int
    distance: float
    ratio: float


@dataclass(frozen=True)
class MemorisationReport:
    """The memorisation table. A generator that draws fresh samples has a share of about `quantile` and a ratio near 1.

    Attributes:
        space: What distances are taken in, for example "pixels".
        against: What was searched: "training", or "reference" when the model may not have seen those data.
        searched: How many they are.
        baseline: Whose nearest neighbours are the measure: "held-out", or as `against` (each without itself).
        probes: How many of those.
        samples: Generated samples looked at.
        quantile: Which quantile of the real nearest-neighbour distances is the threshold, in (0, 1).
        threshold: That distance.
        share: Share of generated samples that are at most so far from a searched one, in [0, 1].
        copies: Generated samples that equal a searched one exactly.
        real_copies: Share of the real baseline that equals another searched one exactly: what the data repeat.
        median_ratio: Median distance of generated samples over that of real ones.
        worst: The pairs of smallest distance, nearest first.
    """

    space: str
    against: Against
    searched: int
    baseline: str
    probes: int
    samples: int
    quantile: float
    threshold: float
    share: float
    copies: int
    real_copies: float
    median_ratio: float
    worst: tuple[Pair, ...]

    def dump(self) -> dict[str, Any]:  # Any: JSON-like values
        """Plain data."""
        return asdict(self)

    def lines(self) -> tuple[str, ...]:
        """The table in words, for people."""
        return (
            f"{self.share:.1%} of {self.samples} samples lie as near to one of the {self.searched} {self.against} "
            f"samples in {self.space} as the nearest {self.quantile:.0%} of {self.probes} {self.baseline} ones do "
            f"(fresh samples: about {self.quantile:.0%})",
            f"{self.copies} are exact copies (of the {self.baseline} data, {self.real_copies:.1%} are copies)",
            f"the median distance to the nearest {self.against} sample is {self.median_ratio:.2f} times that of the "
            f"{self.baseline} data",
        )


def _over(distance: float, unit: float) -> float:
    """Ratio to a real distance that may be 0 where the data repeat themselves."""
    return distance / unit if unit else (1.0 if distance == 0 else float("inf"))


def _nearest_two(queries: Tensor, blocks: Iterable[Features], name: str) -> tuple[Tensor, Tensor, int]:
    """The two nearest of a stream of points: distances (n, 2) rising, places (n, 2), and how many points there were."""
    best, place, seen = (
        queries.new_empty(len(queries), 0),
        torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device),
        0,
    )
    rows = max(1, _NUMBERS // queries.shape[1])
    for block in blocks:
        points = points_of(block, name)
        same_space(queries, points, ("the generated set", name))
        found = [nearest_neighbours(some, points, min(2, len(points))) for some in torch.split(queries, rows)]
        distances, places = (torch.cat(columns) for columns in zip(*found, strict=True))
        merged, order = torch.sort(torch.cat([best, distances], 1), stable=True)
        best, place = merged[:, :2], torch.cat([place, places + seen], 1).gather(1, order[:, :2])
        seen += len(points)
    if seen < 2:
        raise UsageError(f"{name} has {seen} points; at least 2 are needed, so give it more samples")
    return best, place, seen


def memorisation(
    generated: Features,
    training: Features | Iterable[Features],
    *,
    held_out: Features | None = None,
    probes: Features | None = None,
    against: Against = "training",
    space: str = "pixels",
    quantile: float = 0.05,
    worst: int = 16,
) -> MemorisationReport:
    """Compare the distances generated -> training with those of real data -> training.

    Args:
        generated: Samples, (N, D) features or (N, C, H, W) images.
        training: What the model was trained on, (M, D) at once, or in blocks that are read once and not kept.
        held_out: Real data that it was not trained on, (L, D): the better measure.
        probes: Without held-out data, the rows of the training data whose distances to the others are the measure,
            (L, D); all of them when None.
        against: What to call the training data: "reference" when the model may have been trained on others.
        space: Name of what is measured in, for the report.
        quantile: Of the real distances, taken as threshold.
        worst: How many of the nearest pairs are listed.

    Raises:
        UsageError: An empty set, different widths, one training sample alone, a quantile outside (0, 1), held-out data
            and probes, or neither with training data in blocks.
        RunError: NaN or infinity.
    """
    if not 0 < quantile < 1:
        raise UsageError(f"quantile is {quantile}; it must lie between 0 and 1")
    if held_out is not None and probes is not None:
        raise UsageError("held_out and probes are both a measure of what is near; give one of them")
    x, name = points_of(generated, "the generated set"), f"the {against} set"
    blocks = [training] if isinstance(training, Tensor | np.ndarray) else training
    baseline: str = against if held_out is None else "held-out"
    measure = next((given for given in (held_out, probes, training) if given is not None), None)
    if not isinstance(measure, Tensor | np.ndarray):
        raise UsageError(f"{name} comes in blocks, which are read only once; give probes or held_out data")
    real = points_of(measure, f"the {baseline} set")
    same_space(x, real, ("the generated set", f"the {baseline} set"))
    near, places, searched = _nearest_two(torch.cat([x, real]), blocks, name)
    distance, place = near[: len(x), 0], places[: len(x), 0]
    # A probe's nearest is itself, at distance 0; another row with the same values is its second.
    unit = near[len(x) :, int(held_out is None)]
    # A distance that occurs, not one interpolated between two: copies in the data then keep the threshold at 0.
    threshold = torch.quantile(unit, quantile, interpolation="lower")
    typical = float(unit.median())
    order = torch.argsort(distance, stable=True)[:worst].tolist()
    return MemorisationReport(
        space=space,
        against=against,
        searched=searched,
        baseline=baseline,
        probes=len(real),
        samples=x.shape[0],
        quantile=quantile,
        threshold=float(threshold),
        share=float((distance <= threshold).double().mean()),
        copies=int((distance == 0).sum()),
        real_copies=float((unit == 0).double().mean()),
        median_ratio=_over(float(distance.median()), typical),
        worst=tuple(Pair(i, int(place[i]), float(distance[i]), _over(float(distance[i]), typical)) for i in order),
    )
