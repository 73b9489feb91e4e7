"""Distances to a known density: Wasserstein, Kullback-Leibler, modes. For toy problems, where no feature is needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from suffuse.base.errors import RunError, UsageError
from suffuse.base.randomness import keys, normal
from suffuse.metrics.points import Features, nearest_neighbours, points_of, same_space, squared_distances, subset

__all__ = ["Modes", "Transport", "kl_divergence", "mode_coverage", "sliced_wasserstein", "wasserstein"]


@dataclass(frozen=True)
class Transport:
    """A distance by optimal transport.

    Attributes:
        value: Wasserstein-2 distance, in units of the data.
        points: How many points of either set it was taken from; fewer than given where the sets were subsampled.
    """

    value: float
    points: tuple[int, int]


@dataclass(frozen=True)
class Modes:
    """How samples spread over the modes of a mixture.

    Attributes:
        covered: Modes that hold at least one sample.
        modes: How many there are.
        inside: Share of samples that lie in any mode, in [0, 1].
        imbalance: Total variation between the shares of samples by nearest mode and the mixture's weights, in [0, 1].
    """

    covered: int
    modes: int
    inside: float
    imbalance: float


def _two(a: Features, b: Features) -> tuple[Tensor, Tensor]:
    x, y = points_of(a, "the first set").double(), points_of(b, "the second set").double()
    same_space(x, y, ("the first set", "the second set"))
    return x, y


def wasserstein(a: Features, b: Features, *, seed: int, limit: int = 2000) -> Transport:
    """Exact Wasserstein-2 distance between two point sets, by the network simplex.

    Of finite samples of the same density it is not 0 but falls like N**(-1/D): compare with two sets of real data.

    Args:
        a: Points, (N, D).
        b: Points, (M, D).
        seed: Of the subsample.
        limit: Larger sets are subsampled to so many points, which the result says; time grows like limit**3.

    Raises:
        UsageError: Different widths.
        RunError: NaN or infinity, or the simplex did not converge.
    """
    import ot  # 1.7 s

    x, y = _two(a, b)
    x = subset(x, limit, seed=seed, stream="wasserstein: first")
    y = subset(y, limit, seed=seed, stream="wasserstein: second")
    origin = y.mean(0)
    cost = squared_distances(x - origin, y - origin).cpu().numpy()
    value, log = ot.emd2([], [], cost, numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        raise RunError(f"optimal transport of {x.shape[0]} to {y.shape[0]} points: {log['warning']}; lower the limit")
    return Transport(math.sqrt(max(0.0, float(value))), (x.shape[0], y.shape[0]))


def sliced_wasserstein(a: Features, b: Features, *, seed: int, directions: int = 256) -> float:
    """Root of the mean squared Wasserstein-2 distance between projections on random directions.

    Args:
        a: Points, (N, D).
        b: Points, (M, D); the counts may differ.
        seed: Of the directions.
        directions: How many.

    Source: bonneel2015sliced.
    """
    x, y = _two(a, b)
    index = torch.arange(directions, device=x.device)
    axes = normal(keys(seed, "sliced wasserstein", 0, index), (x.shape[1],)).double()
    axes = axes / torch.linalg.vector_norm(axes, dim=1, keepdim=True)
    n, m = x.shape[0], y.shape[0]
    # Both quantile functions are steps: between two cuts, counted in units of 1 / (n m), each is one sorted value.
    steps = [torch.arange(1, count + 1, device=x.device) * other for count, other in ((n, m), (m, n))]
    cuts = torch.unique_consecutive(torch.cat(steps).sort().values)
    widths = torch.diff(cuts, prepend=cuts.new_zeros(1)).double() / (n * m)
    first = (x @ axes.T).sort(0).values[(cuts - 1) // m]
    second = (y @ axes.T).sort(0).values[(cuts - 1) // n]
    return math.sqrt(float((widths @ (first - second).square()).mean()))


def kl_divergence(samples: Features, log_density: Callable[[Tensor], Tensor], *, k: int = 4) -> float:
    """KL(samples || density) by the nearest-neighbour entropy estimator; for a few dimensions.

    Consistent, and noisy: of N samples of the density itself it scatters about 0 like N**(-1/2), so that small
    negative values occur and are returned as they are.

    Args:
        samples: (N, D), a continuous distribution: no two alike.
        log_density: Points, (N, D) float64 -> natural log of the normalised density, (N,).
        k: Which neighbour's distance is taken; larger is smoother and more biased.

    Source: kozachenko1987entropy.

    Raises:
        UsageError: k or fewer samples.
        RunError: NaN or infinity in samples or log density, or so many copies that the entropy has no estimate.
    """
    x = points_of(samples, "the samples", least=k + 1).double()
    n, d = x.shape
    radius = nearest_neighbours(x, x, k, exclude_self=True)[0][:, -1]
    if (radius == 0).any():
        raise RunError(
            f"{int((radius == 0).sum())} of {n} samples have {k} exact copies, so their distribution has no density "
            "and the divergence is infinite; look at the sampler or at the samples' precision"
        )
    log_p = log_density(x)
    if not log_p.isfinite().all():
        raise RunError(
            f"the log density is not finite at {int((~log_p.isfinite()).sum())} of {n} samples; compute it in float64"
        )
    log_ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    digamma = torch.digamma(torch.tensor([n, k], dtype=torch.float64))
    entropy = float(digamma[0] - digamma[1]) + log_ball + d * float(radius.log().mean())
    return -entropy - float(log_p.double().mean())


def mode_coverage(samples: Features, means: Features, stds: Features, weights: Features, *, reach: float = 3) -> Modes:
    """Which modes of a mixture of isotropic Gaussians the samples find, and how evenly.

    Args:
        samples: (N, D).
        means: (K, D).
        stds: Standard deviation of each mode along every axis, (K,).
        weights: Of the modes, (K,), with sum 1.
        reach: A sample lies in its nearest mode when it is within so many standard deviations of its mean: 3 hold
            98.9 % of a mode in two dimensions.

    Source: srivastava2017veegan.

    Raises:
        UsageError: Different widths, or weights that do not sum to 1.
        RunError: NaN or infinity.
    """
    x, centres = _two(samples, means)
    scale = torch.as_tensor(stds).to(x) * reach
    share = torch.as_tensor(weights).to(x)
    if not (scale.shape == share.shape == centres.shape[:1]) or abs(float(share.sum()) - 1) > 1e-6:
        raise UsageError(
            f"{centres.shape[0]} means have {tuple(scale.shape)} stds and {tuple(share.shape)} weights of sum "
            f"{float(share.sum()):.6g}; give one of each per mode, with weights of sum 1"
        )
    distance, mode = nearest_neighbours(x, centres)
    distance, mode = distance[:, 0], mode[:, 0]
    inside = distance <= scale[mode]
    occupancy = torch.bincount(mode, minlength=centres.shape[0]).double() / x.shape[0]
    return Modes(
        covered=int(torch.bincount(mode[inside]).count_nonzero()),
        modes=centres.shape[0],
        inside=float(inside.double().mean()),
        imbalance=float((occupancy - share).abs().sum() / 2),
    )
