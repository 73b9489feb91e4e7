"""Frechet distance between Gaussians fitted to features: FID's formula, in any feature space, in float64.

tr (S1 S2)^1/2 is taken as tr (S1^1/2 S2 S1^1/2)^1/2, whose eigenvalues are those of a symmetric matrix. A general
matrix root turns round-off into imaginary parts and has changed between versions of the libraries that offer one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from suffuse.base.errors import RunError, UsageError
from suffuse.base.randomness import permutation
from suffuse.metrics.points import Features, points_of, subset

__all__ = ["Moments", "frechet", "frechet_floor", "frechet_infinity"]

_ROWS = 8192  # rows that are float64 at a time: 128 MiB at D = 2048


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of a set of features; sets are joined with `+`, in any cut, to the same result.

    Attributes:
        n: How many samples.
        mean: (D,) float64.
        scatter: Sum of (x - mean)(x - mean)^T, (D, D) float64.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Features, name: str = "features") -> Self:
        """Moments of features in rows, (N, D).

        Raises:
            UsageError: No rows, or no axis of features.
            RunError: NaN or infinity.
        """
        rows = points_of(features, name)
        return cls.over((rows[i : i + _ROWS] for i in range(0, rows.shape[0], _ROWS)), name)

    @classmethod
    def over(cls, batches: Iterable[Features], name: str = "features") -> Self:
        """Moments of a stream of batches, (B, D) each, which are not kept."""
        total: Self | None = None
        for batch in batches:
            rows = points_of(batch, name).double()
            mean = rows.mean(0)
            part = cls(rows.shape[0], mean, (rows - mean).T @ (rows - mean))
            total = part if total is None else total + part
        if total is None:
            raise UsageError(f"{name} holds no batch; moments need at least 2 samples")
        return total

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance, (D, D) float64; of rank n - 1 at most.

        Raises:
            UsageError: Fewer than 2 samples.
        """
        if self.n < 2:
            raise UsageError(f"a covariance needs at least 2 samples, not {self.n}; give it more")
        return self.scatter / (self.n - 1)

    def __add__(self, other: Self) -> Self:
        if self.mean.shape != other.mean.shape:
            raise UsageError(
                f"moments have widths {self.mean.shape[0]} and {other.mean.shape[0]}; take both in the same features"
            )
        # Pairwise update about the means: sums of squares would lose what the mean's square outweighs.
        n, step = self.n + other.n, other.mean - self.mean
        return type(self)(
            n,
            self.mean + step * (other.n / n),
            self.scatter + other.scatter + torch.outer(step, step) * (self.n * other.n / n),
        )


def _roots(eigenvalues: Tensor, scale: Tensor, what: str) -> Tensor:
    """Square roots of eigenvalues that are not negative but for round-off: those below zero by round-off count as zero.

    Args:
        eigenvalues: Of a symmetric matrix, (D,).
        scale: Norm of what was multiplied to make the matrix; round-off is measured by it.
        what: The matrix, for the message.

    Raises:
        RunError: One is negative beyond round-off.
    """
    margin = 10 * eigenvalues.shape[0] * torch.finfo(torch.float64).eps * scale
    if eigenvalues.min() < -margin:
        raise RunError(
            f"{what} has the eigenvalue {float(eigenvalues.min()):.3g}, negative beyond round-off "
            f"({float(margin):.1g}); these moments do not come from samples"
        )
    return eigenvalues.clamp_min(0).sqrt()


def frechet(a: Moments, b: Moments) -> float:
    """Squared Frechet distance |m1 - m2|**2 + tr S1 + tr S2 - 2 tr (S1 S2)**(1/2); 0 for equal moments.

    Works when there are fewer samples than dimensions; the value then is dominated by its bias, so compare only
    equal counts (`frechet_floor`, `frechet_infinity`). It is called FID only in the features that define FID.

    Source: heusel2017fid, Eq. 6.

    Raises:
        UsageError: Different widths, or a set with fewer than 2 samples.
        RunError: A covariance that is not one.
    """
    if a.mean.shape != b.mean.shape:
        raise UsageError(f"features have widths {a.mean.shape[0]} and {b.mean.shape[0]}; take both in the same ones")
    first, second = a.covariance, b.covariance
    values, vectors = torch.linalg.eigh(first)
    root = vectors * _roots(values, values.abs().max(), "the first covariance")
    inner = torch.linalg.eigvalsh(root.T @ second @ root)
    cross = _roots(inner, values.abs().max() * torch.linalg.matrix_norm(second), "the product of the covariances").sum()
    distance = (a.mean - b.mean).square().sum() + first.trace() + second.trace() - 2 * cross
    # Equal moments cancel to +-1e-16 of the traces; a distance has no other way of being negative.
    return max(0.0, float(distance))


def frechet_floor(features: Features, *, seed: int, splits: int = 4) -> float:
    """Distance between two random halves of the real data: what a perfect generator of N / 2 samples would score.

    Args:
        features: Of real data, (N, D).
        seed: Of the halves.
        splits: How many random halvings are averaged.

    Raises:
        UsageError: Fewer than 4 samples.
    """
    points = points_of(features, "the real data", least=4)
    half = points.shape[0] // 2
    total = 0.0
    for number in range(splits):
        order = permutation(seed, "frechet floor", number, points.shape[0]).to(points.device)
        total += frechet(Moments.of(points[order[:half]]), Moments.of(points[order[half : 2 * half]]))
    return total / splits


def frechet_infinity(features: Features, reference: Moments, *, seed: int, sizes: int = 15) -> float:
    """Distance extrapolated to infinitely many samples: the intercept of a line through it over 1 / N.

    The reference's own bias stays. May come out slightly negative where the true distance is near 0; that is noise,
    and is returned as it is.

    Args:
        features: Of generated samples, (N, D); N / 10 should exceed D for the line to be one.
        reference: Moments of the real data.
        seed: Of the subsets.
        sizes: How many subset sizes between N / 10 and N, evenly spaced.

    Source: chong2020fdinf.

    Raises:
        UsageError: Fewer than 20 samples, or fewer than 2 sizes.
    """
    points = points_of(features, "the generated data", least=20)
    if sizes < 2:
        raise UsageError(f"sizes is {sizes}; a line needs at least 2")
    counts = torch.linspace(points.shape[0] / 10, points.shape[0], sizes, dtype=torch.float64).round().long()
    values = [
        frechet(Moments.of(subset(points, int(n), seed=seed, stream="frechet infinity", number=i)), reference)
        for i, n in enumerate(counts)
    ]
    inverse, value = 1 / counts.double(), torch.tensor(values, dtype=torch.float64)
    centred = inverse - inverse.mean()
    slope = (centred * value).sum() / centred.square().sum()
    return float(value.mean() - slope * inverse.mean())
