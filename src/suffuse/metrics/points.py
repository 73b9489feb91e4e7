"""Point sets: the checked input of every metric, and nearest neighbours among them in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suffuse.base.errors import RunError, UsageError
from suffuse.base.randomness import permutation

__all__ = [
    "Features",
    "blocks",
    "nearest_neighbours",
    "points_of",
    "rounding_margin",
    "same_space",
    "squared_distances",
    "subset",
]

Features = Tensor | NDArray[np.generic]
"""What metrics take: (N, D), a tensor or a numpy array of any numeric type."""

_QUERIES = 1024
_REFERENCES = 8192  # 1024 x 8192 distances of 8 bytes are 64 MiB, whatever the sizes of the sets


def points_of(features: Features, name: str, least: int = 1) -> Tensor:
    """Check a point set and return it as a tensor, (N, D); float32 and float64 stay as they are.

    Args:
        features: Points, (N, D), or images, (N, C, H, W), which are flattened.
        name: What to call them in messages.
        least: How many points are needed.

    Raises:
        UsageError: Fewer than `least` points, or no axis of features.
        RunError: NaN or infinity; the first such row is named.
    """
    if isinstance(features, np.ndarray) and not features.flags.writeable:
        features = features.copy()  # torch warns of memory that it may not write
    points = torch.as_tensor(features).detach()
    if points.dtype not in (torch.float32, torch.float64):
        points = points.double()
    if points.ndim < 2:
        raise UsageError(f"{name} has shape {tuple(points.shape)}; metrics take points in rows, (N, D)")
    if points.shape[0] < least:
        raise UsageError(f"{name} has {points.shape[0]} points; at least {least} are needed, so give it more samples")
    points = points.flatten(1)
    broken = ~points.isfinite().all(dim=1)
    if broken.any():
        raise RunError(
            f"{name} has NaN or infinity in {int(broken.sum())} of {points.shape[0]} points, the first is point "
            f"{int(broken.nonzero()[0])}; look at the samples or at the feature network"
        )
    return points


def same_space(a: Tensor, b: Tensor, names: tuple[str, str]) -> None:
    """Raise a `UsageError` when two point sets have different widths."""
    if a.shape[1] != b.shape[1]:
        raise UsageError(
            f"{names[0]} has width {a.shape[1]} and {names[1]} has width {b.shape[1]}; take both in the same features"
        )


def subset(points: Tensor, count: int, *, seed: int, stream: str, number: int = 0) -> Tensor:
    """Draw `count` points without replacement, (count, D); all of them, in their order, when there are no more."""
    if count >= points.shape[0]:
        return points
    return points[permutation(seed, stream, number, points.shape[0])[:count].to(points.device)]


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances by a matrix product: (n, D) and (m, D), float64 -> (n, m), not negative.

    Seventeen times faster than differences at D = 2048 (one CPU thread), at the price of cancellation: the error is
    about `rounding_margin`, so that a copy is not at distance 0 exactly.
    """
    return torch.addmm((x * x).sum(1, keepdim=True) + (y * y).sum(1), x, y.T, alpha=-2).clamp_min(0)


def rounding_margin(x: Tensor, y: Tensor) -> Tensor:
    """By how much `squared_distances` may be off, (n, m): 1e-13 of the squared norms (measured: below 1e-14)."""
    return 1e-13 * ((x * x).sum(1, keepdim=True) + (y * y).sum(1))


def blocks(points: Tensor, origin: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """Cut a point set into (first row, rows as float64 about `origin`); centring keeps the cancellation small."""
    for start in range(0, points.shape[0], size):
        yield start, points[start : start + size].double() - origin


def nearest_neighbours(
    queries: Tensor, references: Tensor, k: int = 1, *, exclude_self: bool = False
) -> tuple[Tensor, Tensor]:
    """The k nearest references of each query, by exact search in blocks: memory grows with n + m, not with n * m.

    Args:
        queries: Points, (n, D).
        references: Points, (m, D).
        k: How many neighbours.
        exclude_self: Whether row i of `queries` *is* row i of `references` and must not find itself; another row with
            the same values is a neighbour at distance 0.

    Returns:
        Distances, (n, k) float64, rising, and indices into `references`, (n, k) int64. The distances of the pairs
        found are differences, not products: an exact copy is at exactly 0.

    Raises:
        UsageError: Fewer than k references.
    """
    if k + exclude_self > references.shape[0]:
        raise UsageError(
            f"{k} neighbours need {k + exclude_self} points, not {references.shape[0]}; lower k or add points"
        )
    origin = references.mean(0, dtype=torch.float64)
    distances, indices = [], []
    for row, x in blocks(queries, origin, _QUERIES):
        best = x.new_full((x.shape[0], 0), 0.0)
        place = torch.empty_like(best, dtype=torch.int64)
        for column, y in blocks(references, origin, _REFERENCES):
            found = squared_distances(x, y)
            if exclude_self:
                found.diagonal(row - column).fill_(torch.inf)
            values, where = torch.topk(found, min(k, y.shape[0]), dim=1, largest=False)
            values, where = torch.cat([best, values], 1), torch.cat([place, where + column], 1)
            best, order = torch.topk(values, min(k, values.shape[1]), dim=1, largest=False)
            place = where.gather(1, order)
        pairs = references[place].double() - queries[row : row + x.shape[0], None].double()
        exact, order = torch.sort(torch.linalg.vector_norm(pairs, dim=2), dim=1, stable=True)
        distances.append(exact)
        indices.append(place.gather(1, order))
    return torch.cat(distances), torch.cat(indices)
