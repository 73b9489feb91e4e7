"""Maximum mean discrepancy: the kernel distance between two sets of features, unbiased at any number of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.metrics.points import Features, points_of, same_space, squared_distances, subset

__all__ = ["Averaged", "Kernel", "cubic", "gaussian", "kernel_distance", "median_distance", "mmd2", "unbiased_mmd2"]

Kernel = Callable[[Tensor, Tensor], Tensor]
"""(n, D), (m, D) float64 -> (n, m)."""


@dataclass(frozen=True)
class Averaged:
    """A mean over random subsets.

    Attributes:
        value: The mean.
        error: Standard error of a measurement on so many samples, by the delete-d jackknife. The deviation between
            subsets over the root of their number would be far too small: overlapping subsets agree with each other.
        repeats: How many subsets.
    """

    value: float
    error: float
    repeats: int


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """(x . y / D + 1)**3, KID's kernel. Source: binkowski2018kid."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(scale: float) -> Kernel:
    """exp(-|x - y|**2 / (2 scale**2)).

    Args:
        scale: Its width, in units of the features; `median_distance` is the usual choice.

    Raises:
        UsageError: The scale is not positive.
    """
    if not scale > 0:
        raise UsageError(f"the kernel's scale is {scale}; it must be positive (are all samples equal?)")
    return lambda x, y: torch.exp(squared_distances(x, y) / (-2 * scale**2))


def median_distance(features: Features, *, seed: int, count: int = 1000) -> float:
    """Median of the distances between `count` random points of a set: the median heuristic for a kernel's scale."""
    points = points_of(features, "features", least=2)
    return float(torch.pdist(subset(points, count, seed=seed, stream="median distance").double()).median())


def unbiased_mmd2(x: Tensor, y: Tensor, kernel: Kernel = cubic) -> Tensor:
    """Unbiased squared maximum mean discrepancy with its gradients, a scalar; arguments as for `mmd2`."""
    n, m = x.shape[0], y.shape[0]
    within_x, within_y, between = kernel(x, x), kernel(y, y), kernel(x, y)
    return (
        (within_x.sum() - within_x.trace()) / (n * (n - 1))
        + (within_y.sum() - within_y.trace()) / (m * (m - 1))
        - 2 * between.mean()
    )


def mmd2(x: Tensor, y: Tensor, kernel: Kernel = cubic) -> float:
    """Unbiased squared maximum mean discrepancy; near 0, and on either side of it, for samples of one distribution.

    Args:
        x: Points, (n, D), n at least 2.
        y: Points, (m, D), m at least 2.
        kernel: Which.

    Source: gretton2012mmd, Eq. 3.
    """
    return float(unbiased_mmd2(x, y, kernel))


def kernel_distance(
    a: Features, b: Features, *, seed: int, kernel: Kernel = cubic, size: int = 1000, subsets: int = 100
) -> Averaged:
    """Squared kernel distance, averaged over random subsets of both sets; it is called KID only in FID's features.

    Args:
        a: Points, (N, D).
        b: Points, (M, D).
        seed: Of the subsets.
        kernel: Which.
        size: Points in a subset, fewer than the smaller set has.
        subsets: How many.

    Source: binkowski2018kid; the error: shao1989jackknife.

    Raises:
        UsageError: A set of `size` points or fewer, or counts that make no sense.
        RunError: NaN or infinity.
    """
    if size < 2 or subsets < 2:
        raise UsageError(f"size is {size} and subsets is {subsets}; both must be at least 2")
    x = points_of(a, "the first set", least=size + 1)
    y = points_of(b, "the second set", least=size + 1)
    same_space(x, y, ("the first set", "the second set"))
    values = torch.tensor(
        [
            mmd2(
                subset(x, size, seed=seed, stream="kernel distance: first", number=i).double(),
                subset(y, size, seed=seed, stream="kernel distance: second", number=i).double(),
                kernel,
            )
            for i in range(subsets)
        ],
        dtype=torch.float64,
    )
    left_out = min(x.shape[0], y.shape[0]) - size
    error = float(values.std()) * (size / left_out + 1 / subsets) ** 0.5
    return Averaged(float(values.mean()), error, subsets)
