"""The judge: reference data, a feature space and the measures taken in it, prepared once for many sets of samples."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suffuse.base.errors import UsageError, unknown_name
from suffuse.base.randomness import permutation
from suffuse.data import DataPart, Dataset, DensityPart, to_uint8
from suffuse.data.cache import default_cache
from suffuse.metrics import (
    FeatureExtractor,
    Inception,
    Measurement,
    MemorisationReport,
    Moments,
    Ruler,
    density_coverage,
    extract,
    frechet,
    frechet_floor,
    kernel_distance,
    kl_divergence,
    memorisation,
    precision_recall,
    sliced_wasserstein,
    wasserstein,
)
from suffuse.tasks.generate import Generated
from suffuse.tasks.runs import OpenRun, named
from suffuse.training.extractor import TrainedFeatures, train_extractor
from suffuse.training.settings import SamplingSettings

__all__ = ["ImageJudge", "Judge", "PointJudge", "Reference", "extractor_of", "judge_of", "ruler_of"]

_BATCH = 100  # images that a feature network sees at a time: Inception needs some 15 MB for each
# Neighbour searches in features grow with the square of the set.
_NEIGHBOURS = 5000
# The search in pixels reads all images in blocks of so many numbers (half a gigabyte with their copies) ...
_NUMBERS = 2**24
# ... for the samples and for so many real images, whose neighbours say what is near.
_PROBES = 1000


def ruler_of(run: OpenRun, settings: SamplingSettings, made: Generated, seed: int) -> Ruler:
    """What a number about these samples was measured with; the judge fills in its own part."""
    return Ruler(
        weights=run.config.weights,
        solver=named(settings.solver),
        grid=named(settings.grid),
        nfe=made.nfe,
        guidance=named(settings.guidance),
        plan=named(settings.plan),
        conditions=", ".join(run.model.conditioner.reads) or None,
        precision=settings.precision,
        samples=len(made.x),
        data="",
        reference="",
        reference_count=1,
        seed=seed,
    )


def _shown(x: Tensor) -> Tensor:
    """What a viewer gets of samples, (n, C, H, W): eight bits a channel, on the very values that data have."""
    return torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class Reference:
    """Reference data.

    Attributes:
        name: What people call them.
        fingerprint: Hash of their content.
        count: How many of them are used.
    """

    name: str
    fingerprint: str
    count: int


class Judge(abc.ABC):
    """Measures samples against reference data.

    Attributes:
        headline: Name of the distance that comparisons are drawn by; lower is better.
        floor: What fresh real data of the same kind would score on it; None when unknown.
        least: Samples without which a measure has no value.
        reference: What the samples are measured against.
        features_hash: Of the feature network's weights; None where points are measured themselves.
    """

    least: ClassVar[int]
    headline: str
    floor: float | None
    reference: Reference
    features_hash: str | None = None

    @abc.abstractmethod
    def measure(self, made: Generated, ruler: Ruler) -> tuple[Measurement, ...]:
        """All measures of a set of samples."""

    @abc.abstractmethod
    def examples(self, n: int) -> Tensor:
        """The first n of the reference data, at most, (n, ...)."""

    @abc.abstractmethod
    def distance(self, made: Generated, ruler: Ruler) -> Measurement:
        """The headline alone: what comparisons need."""


class ImageJudge(Judge):
    """Distances in a named feature space.

    Args:
        dataset: Reference images.
        extractor: The feature space.
        count: At most so many reference images, chosen by a fixed seed.
        own: Whether they are what the run was trained on.
    """

    least: ClassVar[int] = 6  # density and coverage look at the fifth neighbour

    def __init__(self, dataset: Dataset, extractor: FeatureExtractor, count: int, *, own: bool = True) -> None:
        self.dataset, self.extractor, self.own = dataset, extractor, own
        self.index = permutation(0, "reference", 0, len(dataset))[:count].sort().values
        self.real = extract(extractor, map(self._images, torch.split(self.index, _BATCH)))
        self.moments = Moments.of(self.real, "the reference features")
        self.reference = Reference(dataset.name, dataset.fingerprint, len(self.index))
        self.headline, self.features_hash = extractor.name, extractor.hash
        self.floor = frechet_floor(self.real, seed=0)

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

    def examples(self, n: int) -> Tensor:
        """Images in [-1, 1], one class after the other where there are classes, as samples are."""
        labels, count = self.dataset.labels, len(self.index)
        order = list(range(min(n, count)))
        if labels is not None and len(self.dataset.classes) > 1:
            mine = torch.from_numpy(labels)[self.index]
            rows = [(mine == label).nonzero()[:, 0] for label in range(len(self.dataset.classes))]
            places = ((i // len(rows), rows[i % len(rows)]) for i in range(n))
            order = [int(row[place]) for place, row in places if place < len(row)]
        return self._images(self.index[order])

    def _features(self, made: Generated) -> NDArray[np.float32]:
        return extract(self.extractor, map(_shown, torch.split(made.x, _BATCH)))

    def distance(self, made: Generated, ruler: Ruler) -> Measurement:
        """Frechet distance."""
        return self._frechet(self._features(made), self._ruler(ruler))

    def _frechet(self, features: NDArray[np.float32], ruler: Ruler) -> Measurement:
        value = frechet(Moments.of(features, "the samples' features"), self.moments)
        return Measurement(name=self.headline, value=value, ruler=ruler)

    def measure(self, made: Generated, ruler: Ruler) -> tuple[Measurement, ...]:
        """Frechet and kernel distance, precision, recall, density, coverage, and labels right."""
        ruler, features = self._ruler(ruler), self._features(made)
        size = min(1000, min(len(features), len(self.real)) // 2)
        kernel = kernel_distance(features, self.real, seed=0, size=size, subsets=20)
        few = features[:_NEIGHBOURS]
        # The reference is in the order of its classes: some of all of them.
        real = self.real[permutation(0, "neighbours", 0, len(self.real))[:_NEIGHBOURS].numpy()]
        manifold = precision_recall(real, few)
        cover = density_coverage(real, few)
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
            told = torch.cat([self.extractor.labels(_shown(part)).cpu() for part in torch.split(made.x, _BATCH)])
            right = (told == asked).float().mean().item()
            rows.append(Measurement(name="labels_right", value=right, ruler=ruler))
        return tuple(rows)

    def memorised(self, made: Generated, nearest: int) -> MemorisationReport:
        """How near samples come to the images of the data, all of which are searched, in pixels."""
        total = len(self.dataset)
        blocks = torch.split(torch.arange(total), max(1, _NUMBERS // math.prod(self.dataset.shape)))
        return memorisation(
            _shown(made.x[:nearest]),
            map(self._images, blocks),
            probes=self._images(permutation(0, "probes", 0, total)[:_PROBES]),
            against="training" if self.own else "reference",
        )


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
        self.reference = Reference(dataset.name, dataset.fingerprint, n)
        self.floor = wasserstein(density.sample(n, seed=8).double(), self.real, seed=0).value

    def _ruler(self, ruler: Ruler) -> Ruler:
        return ruler.replace(
            features="points",
            data=self.reference.name,
            reference=self.reference.fingerprint,
            reference_count=self.reference.count,
        )

    def examples(self, n: int) -> Tensor:
        """Points of the density."""
        return self.real[:n].float()

    def distance(self, made: Generated, ruler: Ruler) -> Measurement:
        """Exact Wasserstein-2 distance."""
        value = wasserstein(made.x.double(), self.real, seed=0).value
        return Measurement(name=self.headline, value=value, ruler=self._ruler(ruler))

    def measure(self, made: Generated, ruler: Ruler) -> tuple[Measurement, ...]:
        """Wasserstein-2, its sliced form, and the KL divergence from the density."""
        points = made.x.double()
        named = {
            "sliced_wasserstein": sliced_wasserstein(points, self.real, seed=0),
            "kl_divergence": kl_divergence(points, self.density.log_prob),
        }
        rows = [Measurement(name=name, value=value, ruler=self._ruler(ruler)) for name, value in named.items()]
        return (self.distance(made, ruler), *rows)


def _load(run: OpenRun, source: DataPart, own: bool) -> Dataset:
    try:
        dataset = source.load()
    except UsageError as error:
        if not own:
            raise
        raise UsageError(
            f"the data that {run.folder} was trained on cannot be loaded ({error}); give --data"
        ) from error
    if dataset.shape != run.shape:
        raise UsageError(f"the model makes samples of {run.shape}, but the data have {dataset.shape}; give others")
    return dataset


def extractor_of(
    features: str, dataset: Dataset, cache: Path | None = None, note: Callable[[str], None] = lambda text: None
) -> TrainedFeatures | Inception:
    """The feature space of a name; arguments and errors as for `judge_of`."""
    kind, _, path = features.partition(":")
    if kind == "inception":
        return Inception(Path(path).expanduser() if path else None)
    if features != "trained":
        raise unknown_name("feature space", features, ("trained", "inception", "inception:PATH"))
    note("features: a small network trained on the same data, kept in the cache")
    extractor = train_extractor(dataset, cache=cache or default_cache())
    if extractor.note:
        note(extractor.note)
    return extractor


def judge_of(
    run: OpenRun,
    *,
    samples: int,
    source: DataPart | None = None,
    features: str = "trained",
    cache: Path | None = None,
    count: int = 10_000,
    note: Callable[[str], None] = lambda text: None,
) -> Judge:
    """The judge that fits a run's data.

    Args:
        run: Whose data are the reference.
        samples: How many will be judged at a time.
        source: Other reference data; the run's own when None.
        features: `trained` on the reference data, or `inception`, with `inception:PATH` naming the weights file.
        cache: Where features are kept; the user's cache when None.
        count: Reference samples at most.
        note: Told what is going on.

    Raises:
        UsageError: The run has no data of its own and none are given, they are not here or have another shape, there
            are too few of them or of the samples, or no such features; found before features are trained.
    """
    trained_on = run.recipe.data if run.recipe else None
    source = source or trained_on
    if source is None:
        raise UsageError(f"{run.folder} does not say what it was trained on; give --data")
    least = PointJudge.least if isinstance(source, DensityPart) else ImageJudge.least
    if samples < least:
        raise UsageError(f"n is {samples}, too few to be judged; ask for at least {least}, better a thousand")
    own = source == trained_on
    dataset = _load(run, source, own)
    if isinstance(source, DensityPart):
        if features != "trained":
            raise UsageError(f"features {features!r} are of images, but {dataset.name!r} are points; leave them out")
        return PointJudge(dataset, source, count)
    if len(dataset) < least:
        raise UsageError(f"data {dataset.name!r} has {len(dataset)} images, too few to judge by; give at least {least}")
    extractor = extractor_of(features, dataset, cache, note).to(run.model.device)
    return ImageJudge(dataset, extractor, count, own=own)
