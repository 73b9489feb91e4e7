"""Mixtures of points, most with known density and score: data on which solvers, objectives and metrics can be judged.

All numbers are float64 inside; samples come as float32, as data do.
"""

from __future__ import annotations

import abc
import math
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from suffuse.base.randomness import keys, normal, uniform
from suffuse.data.dataset import Dataset
from suffuse.data.part import DataPart

__all__ = ["DensityPart", "GaussianMixture", "MixturePart", "Rings", "check_components", "equal_or"]


class MixturePart(DataPart, abc.ABC):
    """Points of a mixture in D dimensions, labelled with their component.

    Attributes:
        count: Points of the data set.
        seed: Of those points; the first n of a larger set are the smaller set.
    """

    count: int = Field(default=10_000, ge=1)
    seed: int = 0

    @property
    @abc.abstractmethod
    def component_weights(self) -> Tensor:
        """Shares of the components, (K,) float64, sum 1."""

    @abc.abstractmethod
    def _points(self, key: Tensor, component: Tensor) -> Tensor:
        """One point a key from its component: (B,), (B,) -> (B, D) float64."""

    def sample(self, n: int, seed: int) -> Tensor:
        """Points, (n, D) float32; point i of a seed is the same whatever n."""
        return self._drawn(n, seed)[0]

    def _drawn(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Points (n, D) float32 and the components that they are of, (n,) int64."""
        places = torch.arange(n)
        edges = self.component_weights.cumsum(0)[:-1]
        component = torch.searchsorted(edges, uniform(keys(seed, "density: component", 0, places))[:, 0])
        return self._points(keys(seed, "density: point", 0, places), component).float(), component

    def load(self, cache: Path | None = None) -> Dataset:
        """`count` points labelled with their component; nothing is cached."""
        points, component = self._drawn(self.count, self.seed)
        classes = [f"component {number}" for number in range(len(self.component_weights))]
        return Dataset.of(self.kind, points.numpy(), labels=component.numpy(), classes=classes)


class DensityPart(MixturePart, abc.ABC):
    """A mixture whose components have densities, known with their scores."""

    @abc.abstractmethod
    def log_components(self, x: Tensor) -> Tensor:
        """Log density of each component, (B, D) -> (B, K) float64."""

    @abc.abstractmethod
    def component_scores(self, x: Tensor) -> Tensor:
        """Score of each component, (B, D) -> (B, K, D) float64."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density, (B, D) -> (B,) float64."""
        return (self.component_weights.log() + self.log_components(x)).logsumexp(1)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log density in x, (B, D) -> (B, D) float64."""
        share = (self.component_weights.log() + self.log_components(x)).softmax(1)
        return (share[..., None] * self.component_scores(x)).sum(1)


class GaussianMixture(DensityPart):
    """Mixture of isotropic Gaussians, sum_k w_k N(mean_k, std_k**2 I); eight on a circle by default.

    Attributes:
        weights: Shares, sum 1; None for equal ones.
        means: K points of D numbers each.
        stds: K standard deviations.
    """

    kind: Literal["mixture"] = "mixture"
    weights: tuple[float, ...] | None = None
    means: tuple[tuple[float, ...], ...] = Field(default_factory=lambda: _circle(8, 1.4), min_length=1)
    stds: tuple[float, ...] = (0.3,) * 8

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len({len(mean) for mean in self.means}) != 1 or not self.means[0]:
            raise ValueError("means must all have the same number of coordinates, at least one")
        check_components(self.weights, len(self.means), stds=self.stds)
        return self

    @classmethod
    def ring(cls, components: int = 8, radius: float = 1.4, std: float = 0.3) -> Self:
        """Equal components, evenly on a circle in the plane."""
        return cls(means=_circle(components, radius), stds=(std,) * components)

    @property
    def component_weights(self) -> Tensor:
        """Shares of the components, (K,) float64."""
        return equal_or(self.weights, len(self.means))

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (K,), means (K, D) and standard deviations (K,), float64."""
        return (
            self.component_weights,
            torch.tensor(self.means, dtype=torch.float64),
            torch.tensor(self.stds, dtype=torch.float64),
        )

    def _points(self, key: Tensor, component: Tensor) -> Tensor:
        _, means, stds = self.parameters()
        return means[component] + stds[component, None] * normal(key, (means.shape[1],)).double()

    def log_components(self, x: Tensor) -> Tensor:
        """Log density of each Gaussian, (B, D) -> (B, K) float64."""
        _, means, stds = self.parameters()
        squares = ((x.double()[:, None] - means) ** 2).sum(-1)
        return -0.5 * squares / stds**2 - means.shape[1] * (stds * math.sqrt(2 * math.pi)).log()

    def component_scores(self, x: Tensor) -> Tensor:
        """(mean - x) / std**2 of each Gaussian, (B, D) -> (B, K, D) float64."""
        _, means, stds = self.parameters()
        return (means - x.double()[:, None]) / stds[:, None] ** 2


class Rings(DensityPart):
    """Concentric noisy circles in the plane: x = radius (cos a, sin a) + std eps, a uniform, eps unit normal.

    The noise is two-dimensional, not radial alone: so the density is smooth at the centre too, and a noisier ring is a
    ring of the same family. With rho = |x|, z = rho radius / std**2 and the modified Bessel function I_0,
    p(x) = exp(-(rho**2 + radius**2) / (2 std**2)) I_0(z) / (2 pi std**2).

    Attributes:
        radii: Of the circles.
        std: Of the noise.
        weights: Shares, sum 1; None for equal ones.
    """

    kind: Literal["rings"] = "rings"
    radii: tuple[float, ...] = Field(default=(0.5, 1.0, 1.5), min_length=1)
    std: float = Field(default=0.08, gt=0)
    weights: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_components(self.weights, len(self.radii), radii=self.radii)
        return self

    @property
    def component_weights(self) -> Tensor:
        """Shares of the circles, (K,) float64."""
        return equal_or(self.weights, len(self.radii))

    def _points(self, key: Tensor, component: Tensor) -> Tensor:
        radius = torch.tensor(self.radii, dtype=torch.float64)[component, None]
        # The angle is the direction of two more normal numbers: one key serves all draws of a point.
        drawn = normal(key, (4,)).double()
        return radius * torch.nn.functional.normalize(drawn[:, :2], dim=1) + self.std * drawn[:, 2:]

    def _bessel_argument(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distance to the centre (B, 1), radii (K,), and z (B, K)."""
        rho = x.double().norm(dim=1, keepdim=True)
        radii = torch.tensor(self.radii, dtype=torch.float64)
        return rho, radii, rho * radii / self.std**2

    def log_components(self, x: Tensor) -> Tensor:
        """Log density of each circle, (B, 2) -> (B, K) float64."""
        rho, radii, z = self._bessel_argument(x)
        # i0e(z) = exp(-z) I_0(z) turns the exponent into -(rho - radius)**2 / (2 std**2): no overflow.
        bessel: Tensor = torch.special.i0e(z)
        return bessel.log() - 0.5 * ((rho - radii) / self.std) ** 2 - math.log(2 * math.pi * self.std**2)

    def component_scores(self, x: Tensor) -> Tensor:
        """Score of each circle, (B, 2) -> (B, K, 2) float64."""
        _, radii, z = self._bessel_argument(x)
        # d log I_0(z) / dx = (I_1 / I_0)(z) (radius / std**2) x / rho = (I_1 / (z I_0))(z) (radius / std**2)**2 x,
        # whose first factor tends to 1/2 at the centre.
        ratio = torch.where(z > 1e-6, torch.special.i1e(z) / (z.clamp(min=1e-6) * torch.special.i0e(z)), 0.5)
        factor = ratio * (radii / self.std**2) ** 2 - 1 / self.std**2
        scores: Tensor = factor[..., None] * x.double()[:, None]
        return scores


def _circle(components: int, radius: float) -> tuple[tuple[float, ...], ...]:
    angles = (2 * math.pi * number / components for number in range(components))
    return tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles)


def check_components(weights: tuple[float, ...] | None, count: int, **positive: tuple[float, ...]) -> None:
    """Raise a `ValueError` for validators: lists of other lengths, weights that are no shares, numbers not above 0."""
    for name, values in positive.items():
        if len(values) != count or not all(0 < value < math.inf for value in values):
            raise ValueError(f"{name} {values} must be {count} finite numbers above 0, one a component")
    if weights is None:
        return
    if len(weights) != count or not all(weight > 0 for weight in weights) or abs(sum(weights) - 1) > 1e-9:
        raise ValueError(
            f"weights {weights} must be {count} numbers above 0 that sum to 1; leave them out for equal ones"
        )


def equal_or(weights: tuple[float, ...] | None, count: int) -> Tensor:
    """The weights, or equal ones where they were left out, (count,) float64."""
    return torch.tensor(weights or (1 / count,) * count, dtype=torch.float64)
