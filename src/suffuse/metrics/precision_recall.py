"""Precision and recall, density and coverage: fidelity and variety apart, on manifolds of nearest-neighbour balls.

All balls are closed, in all four: a sample that copies a repeated real image, whose ball has radius 0, lies in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from suffuse.metrics.points import (
    Features,
    blocks,
    nearest_neighbours,
    points_of,
    rounding_margin,
    same_space,
    squared_distances,
)

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "precision_recall"]

_POINTS = 1024
_CENTRES = 8192


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1].

    Attributes:
        precision: Generated samples that lie on the real manifold.
        recall: Real samples that lie on the generated manifold.
    """

    precision: float
    recall: float


@dataclass(frozen=True)
class DensityCoverage:
    """Fidelity and variety that one outlier cannot inflate.

    Attributes:
        density: Mean number of real balls around a generated sample, over k; about 1 for a perfect generator, and
            above 1 where samples crowd into dense regions.
        coverage: Share of real balls that hold a generated sample, in [0, 1].
    """

    density: float
    coverage: float


def _counts(points: Tensor, centres: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """Membership of points in balls.

    Args:
        points: (n, D).
        centres: (m, D).
        radii: (m,).

    Returns:
        How many balls each point lies in, (n,) int64, and how many points each ball holds, (m,) int64.
    """
    origin = centres.mean(0, dtype=torch.float64)
    around = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
    held = torch.zeros(centres.shape[0], dtype=torch.int64, device=points.device)
    for row, x in blocks(points, origin, _POINTS):
        for column, y in blocks(centres, origin, _CENTRES):
            reach = radii[column : column + y.shape[0]].square()
            # The margin keeps what lies on a sphere, as every k-th neighbour does, inside its closed ball.
            inside = squared_distances(x, y) <= reach + rounding_margin(x, y)
            around[row : row + x.shape[0]] += inside.sum(1)
            held[column : column + y.shape[0]] += inside.sum(0)
    return around, held


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance of every point to its k-th nearest other point, (N,); 0 for a point with k copies."""
    return nearest_neighbours(points, points, k, exclude_self=True)[0][:, -1]


def _pair(real: Features, generated: Features, k: int) -> tuple[Tensor, Tensor]:
    x = points_of(real, "the real set", least=k + 1)
    y = points_of(generated, "the generated set", least=k + 1)
    same_space(x, y, ("the real set", "the generated set"))
    return x, y


def precision_recall(real: Features, generated: Features, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall; both depend on the numbers of samples, so compare equal ones.

    Args:
        real: Features of real data, (N, D).
        generated: Features of samples, (M, D).
        k: Neighbours that set a ball's radius.

    Source: kynkaanniemi2019precision, Eq. 1 and 2.

    Raises:
        UsageError: k or fewer points in a set, or different widths.
        RunError: NaN or infinity.
    """
    x, y = _pair(real, generated, k)
    precision = (_counts(y, x, _radii(x, k))[0] > 0).double().mean()
    recall = (_counts(x, y, _radii(y, k))[0] > 0).double().mean()
    return PrecisionRecall(float(precision), float(recall))


def density_coverage(real: Features, generated: Features, *, k: int = 5) -> DensityCoverage:
    """Density and coverage, from balls around the real data only.

    Args:
        real: Features of real data, (N, D).
        generated: Features of samples, (M, D).
        k: Neighbours that set a ball's radius.

    Source: naeem2020density, Section 3.

    Raises:
        UsageError: k or fewer points in a set, or different widths.
        RunError: NaN or infinity.
    """
    x, y = _pair(real, generated, k)
    around, held = _counts(y, x, _radii(x, k))
    return DensityCoverage(float(around.double().mean() / k), float((held > 0).double().mean()))
