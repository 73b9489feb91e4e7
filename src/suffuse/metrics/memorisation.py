"""Memorisation: how near generated samples come to the training data, measured by how near real data come to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from suffuse.base.errors import UsageError
from suffuse.metrics.points import Features, nearest_neighbours, points_of, same_space

__all__ = ["MemorisationReport", "Pair", "memorisation"]


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
        baseline: Whose nearest neighbours are the measure: "held-out" or "training" (each without itself).
        samples: Generated samples looked at.
        quantile: Which quantile of the real nearest-neighbour distances is the threshold, in (0, 1).
        threshold: That distance.
        share: Share of generated samples that are at most so far from a training sample, in [0, 1].
        copies: Generated samples that equal a training sample exactly.
        real_copies: Share of the real baseline that equals another training sample exactly: what the data repeat.
        median_ratio: Median distance of generated samples over that of real ones.
        worst: The pairs of smallest distance, nearest first.
    """

    space: str
    baseline: str
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
            f"{self.share:.1%} of {self.samples} samples lie as near to a training sample in {self.space} as the "
            f"nearest {self.quantile:.0%} of the {self.baseline} data do (fresh samples: about {self.quantile:.0%})",
            f"{self.copies} are exact copies (of the {self.baseline} data, {self.real_copies:.1%} are copies)",
            f"the median distance to the nearest training sample is {self.median_ratio:.2f} times that of the "
            f"{self.baseline} data",
        )


def _over(distance: float, unit: float) -> float:
    """Ratio to a real distance that may be 0 where the data repeat themselves."""
    return distance / unit if unit else (1.0 if distance == 0 else float("inf"))


def memorisation(
    generated: Features,
    training: Features,
    *,
    held_out: Features | None = None,
    space: str = "pixels",
    quantile: float = 0.05,
    worst: int = 16,
) -> MemorisationReport:
    """Compare the distances generated -> training with those of real data -> training.

    Args:
        generated: Samples, (N, D) features or (N, C, H, W) images.
        training: What the model was trained on, (M, D).
        held_out: Real data that it was not trained on, (L, D): the better measure; the training data's distances
            among themselves when None.
        space: Name of what is measured in, for the report.
        quantile: Of the real distances, taken as threshold.
        worst: How many of the nearest pairs are listed.

    Raises:
        UsageError: An empty set, different widths, one training sample alone, or a quantile outside (0, 1).
        RunError: NaN or infinity.
    """
    if not 0 < quantile < 1:
        raise UsageError(f"quantile is {quantile}; it must lie between 0 and 1")
    x = points_of(generated, "the generated set")
    real = points_of(training, "the training set", least=2)
    same_space(x, real, ("the generated set", "the training set"))
    if held_out is None:
        unit = nearest_neighbours(real, real, exclude_self=True)[0][:, 0]
    else:
        fresh = points_of(held_out, "the held-out set")
        same_space(fresh, real, ("the held-out set", "the training set"))
        unit = nearest_neighbours(fresh, real)[0][:, 0]
    distance, place = (found[:, 0] for found in nearest_neighbours(x, real))
    # A distance that occurs, not one interpolated between two: copies in the data then keep the threshold at 0.
    threshold = torch.quantile(unit, quantile, interpolation="lower")
    typical = float(unit.median())
    order = torch.argsort(distance, stable=True)[:worst].tolist()
    return MemorisationReport(
        space=space,
        baseline="training" if held_out is None else "held-out",
        samples=x.shape[0],
        quantile=quantile,
        threshold=float(threshold),
        share=float((distance <= threshold).double().mean()),
        copies=int((distance == 0).sum()),
        real_copies=float((unit == 0).double().mean()),
        median_ratio=_over(float(distance.median()), typical),
        worst=tuple(Pair(i, int(place[i]), float(distance[i]), _over(float(distance[i]), typical)) for i in order),
    )
