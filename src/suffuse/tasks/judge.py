"""The judge: reference data, a feature space and the measures taken in it, prepared once for many sets of samples."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suffuse import metrics
from suffuse.base.errors import UsageError
from suffuse.base.randomness import permutation
from suffuse.data import DataPart, Dataset, DensityPart
from suffuse.data.cache import default_cache
from suffuse.metrics import FeatureExtractor, Measurement, MemorisationReport, Moments, Ruler
from suffuse.tasks.generate import Generated
from suffuse.tasks.runs import OpenRun, named
from suffuse.training.extractor import TrainedFeatures, train_extractor
from suffuse.training.recipe import SamplingSettings

__all__ = ["ImageJudge", "Judge", "PointJudge", "judge_of", "ruler_of"]

_BATCH = 500
# Neighbour searches grow with the square of the set.
_NEIGHBOURS = 5000


def ruler_of(run: OpenRun, settings: SamplingSettings, made: Generated, seed: int) -> Ruler:
    """What a number about these samples was measured with; the judge fills in its own part."""
    return Ruler(
        weights=run.config.weights,
        solver=named(settings.solver),
        grid=named(settings.grid),
        nfe=made.nfe,
        guidance=named(settings.guidance),
        samples=len(made.x),
        data="",
        reference="",
        reference_count=1,
        seed=seed,
    )


class Judge(abc.ABC):
    """Measures samples against reference data.

    Attributes:
        headline: Name of the distance that comparisons are drawn by; lower is better.
        floor: What fresh real data of the same kind would score on it; None when unknown.
        least: Samples without which a measure has no value.
    """

    least: ClassVar[int]
    headline: str
    floor: float | None

    @abc.abstractmethod
    def measure(self, made: Generated, ruler: Ruler) -> tuple[Measurement, ...]:
        """All measures of a set of samples."""

    @abc.abstractmethod
    def distance(self, made: Generated, ruler: Ruler) -> Measurement:
        """The headline alone: what comparisons need."""


@dataclass(frozen=True)
class _Reference:
    name: str
    fingerprint: str
    count: int


class ImageJudge(Judge):
    """Distances in a named feature space.

    Args:
        dataset: Reference images.
        extractor: The feature space.
        count: At most so many reference images, chosen by a fixed seed.
    """

    least: ClassVar[int] = 6  # density and coverage look at the fifth neighbour

    def __init__(self, dataset: Dataset, extractor: FeatureExtractor, count: int) -> None:
        self.dataset, self.extractor = dataset, extractor
        self.index = permutation(0, "reference", 0, len(dataset))[:count].sort().values
        self.real = metrics.extract(extractor, map(self._images, torch.split(self.index, _BATCH)))
        self.moments = Moments.of(self.real, "the reference features")
        self.reference = _Reference(dataset.name, dataset.fingerprint, len(self.index))
        self.headline = extractor.name
        self.floor = metrics.frechet_floor(self.real, seed=0)

    def _images(self, index: Tensor) -> Tensor:
        images = self.dataset.batch(index).x0
        assert images is not None
        return images

    def _ruler(self, ruler: Ruler) -> Ruler:
        return ruler.replace(
            features=self.extractor.name,
            features_hash=self.extractor.hash,
            data=self.reference.name,
            reference=self.reference.fingerprint,
            reference_count=self.reference.count,
        )

    def _features(self, made: Generated) -> NDArray[np.float32]:
        # What is judged is what a viewer gets: eight bits a channel.
        shown = made.x.clamp(-1, 1).add(1).mul(127.5).round().div(127.5).sub(1)
        return metrics.extract(self.extractor, torch.split(shown, _BATCH))

    def distance(self, made: Generated, ruler: Ruler) -> Measurement:
        """Frechet distance."""
        return self._frechet(self._features(made), self._ruler(ruler))

    def _frechet(self, features: NDArray[np.float32], ruler: Ruler) -> Measurement:
        value = metrics.frechet(Moments.of(features, "the samples' features"), self.moments)
        return Measurement(name=self.headline, value=value, ruler=ruler)

    def measure(self, made: Generated, ruler: Ruler) -> tuple[Measurement, ...]:
        """Frechet and kernel distance, precision, recall, density, coverage, and labels right."""
        ruler, features = self._ruler(ruler), self._features(made)
        size = min(1000, min(len(features), len(self.real)) // 2)
        kernel = metrics.kernel_distance(features, self.real, seed=0, size=size, subsets=20)
        few, real = features[:_NEIGHBOURS], self.real[:_NEIGHBOURS]
        manifold = metrics.precision_recall(real, few)
        cover = metrics.density_coverage(real, few)
        named = {
            "kernel_distance": kernel.value,
            "precision": manifold.precision,
            "recall": manifold.recall,
            "density": cover.density,
            "coverage": cover.coverage,
        }
        rows = [self._frechet(features, ruler)]
        rows += [Measurement(name=name, value=value, ruler=ruler) for name, value in named.items()]
        # A network that reads other classes, or none, cannot say whether a label is right.
        asked = made.labels if made.classes == self.dataset.classes else None
        if asked is not None and isinstance(self.extractor, TrainedFeatures) and self.extractor.task == "classes":
            told = torch.cat([self.extractor.labels(part) for part in torch.split(made.x, _BATCH)])
            right = (told == asked).float().mean().item()
            rows.append(Measurement(name="labels_right", value=right, ruler=ruler))
        return tuple(rows)

    def memorised(self, made: Generated, nearest: int) -> MemorisationReport:
        """How near samples come to the training images, in pixels."""
        images = torch.cat([self._images(part) for part in torch.split(self.index, _BATCH)])
        return metrics.memorisation(made.x[:nearest], images, space="pixels")


class PointJudge(Judge):
    """Exact distances for densities.

    Args:
        dataset: Points drawn from the density.
        density: The density itself.
        count: At most so many reference points.
    """

    least: ClassVar[int] = 5  # the divergence looks at the fourth neighbour

    def __init__(self, dataset: Dataset, density: DensityPart, count: int) -> None:
        self.density, self.headline = density, "wasserstein"
        n = min(count, 2000)
        self.real = density.sample(n, seed=7).double()
        self.reference = _Reference(dataset.name, dataset.fingerprint, n)
        self.floor = metrics.wasserstein(density.sample(n, seed=8).double(), self.real, seed=0).value

    def _ruler(self, ruler: Ruler) -> Ruler:
        return ruler.replace(
            features="points",
            data=self.reference.name,
            reference=self.reference.fingerprint,
            reference_count=self.reference.count,
        )

    def distance(self, made: Generated, ruler: Ruler) -> Measurement:
        """Exact Wasserstein-2 distance."""
        value = metrics.wasserstein(made.x.double(), self.real, seed=0).value
        return Measurement(name=self.headline, value=value, ruler=self._ruler(ruler))

    def measure(self, made: Generated, ruler: Ruler) -> tuple[Measurement, ...]:
        """Wasserstein-2, its sliced form, and the KL divergence from the density."""
        points = made.x.double()
        named = {
            "sliced_wasserstein": metrics.sliced_wasserstein(points, self.real, seed=0),
            "kl_divergence": metrics.kl_divergence(points, self.density.log_prob),
        }
        rows = [Measurement(name=name, value=value, ruler=self._ruler(ruler)) for name, value in named.items()]
        return (self.distance(made, ruler), *rows)


def judge_of(
    run: OpenRun,
    *,
    samples: int,
    source: DataPart | None = None,
    cache: Path | None = None,
    count: int = 10_000,
    note: Callable[[str], None] = lambda text: None,
) -> Judge:
    """The judge that fits a run's data.

    Args:
        run: Whose data are the reference.
        samples: How many will be judged at a time.
        source: Other reference data; the run's own when None.
        cache: Where features are kept; the user's cache when None.
        count: Reference samples at most.
        note: Told what is going on.

    Raises:
        UsageError: The run has no data of its own and none are given, they have another shape, or there are too few
            of them or of the samples; found before features are trained.
    """
    source = source or (run.recipe.data if run.recipe else None)
    if source is None:
        raise UsageError(f"{run.folder} does not say what it was trained on; give --data")
    least = PointJudge.least if isinstance(source, DensityPart) else ImageJudge.least
    if samples < least:
        raise UsageError(f"n is {samples}, too few to be judged; ask for at least {least}, better a thousand")
    dataset = source.load()
    if dataset.shape != run.config.shape:
        raise UsageError(
            f"the model makes samples of {run.config.shape}, but the data have {dataset.shape}; give others"
        )
    if isinstance(source, DensityPart):
        return PointJudge(dataset, source, count)
    if len(dataset) < least:
        raise UsageError(f"data {dataset.name!r} has {len(dataset)} images, too few to judge by; give at least {least}")
    note("features: a small network trained on the same data, kept in the cache")
    extractor = train_extractor(dataset, cache=cache or default_cache())
    if extractor.note:
        note(extractor.note)
    return ImageJudge(dataset, extractor, count)
