"""Dataset: samples in memory or in a mapped file, served as batches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suffuse.base.batch import Batch
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import permutation
from suffuse.data.companion import Companion, pixels
from suffuse.data.report import DataReport

__all__ = ["Dataset"]

Array = NDArray[Any]  # Any: uint8 pixels or float32 numbers
_AT_ONCE = 1 << 24  # bytes: a mapped file is never in memory as a whole


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples with what is known of them. Make one with `Dataset.of`; `split` gives views that share the store.

    Attributes:
        name: What reports call it.
        store: uint8 (M, H, W, C) pixels, float32 (M, D) points or (M, C, H, W) latents, often a mapped file.
        rows: Sample i is `store[rows[i]]`, (N,) int64; None where sample i is `store[i]`.
        mirrored: The samples of mirrored pictures, in the order of `store`; None where they are made from the pictures
            themselves, or not known.
        companions: Conditions beside the label, by name; they are no part of the fingerprint.
        labels: (N,) int64 class numbers; None without classes.
        captions: N texts; None without captions.
        classes: Names of the classes.
        fingerprint: Hash of what the samples are (numbers, labels, captions), whatever file they came from.
        report: What happened while they were read.
    """

    name: str
    store: Array
    labels: NDArray[np.int64] | None
    captions: tuple[str, ...] | None
    classes: tuple[str, ...]
    fingerprint: str
    report: DataReport = field(default_factory=DataReport)
    rows: NDArray[np.int64] | None = None
    mirrored: Array | None = None
    companions: Mapping[str, Companion] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        values: Array,
        *,
        labels: Array | None = None,
        captions: Sequence[str] | None = None,
        classes: Sequence[str] = (),
        report: DataReport | None = None,
        latents: bool = False,
    ) -> Dataset:
        """Check samples and make a data set of them.

        Args:
            name: What reports call it.
            values: uint8 pixels (N, H, W, C), or floats (N, D); see `latents`.
            labels: Class numbers, (N,), 0 <= label < len(classes).
            captions: N texts.
            classes: Names of the classes.
            report: What happened while they were read; a plain count when None.
            latents: Whether floats are maps (N, C, H, W), not points.

        Raises:
            UsageError: Wrong shape, a label without a class, counts that differ, NaN or infinity (the row is named).
        """
        store = np.asarray(values)
        if store.dtype != np.uint8:
            store = store.astype(np.float32, copy=False)  # which may be a mapped file
        _check_values(name, store, latents=latents)
        wide = None if labels is None else np.asarray(labels).astype(np.int64)
        _check_labels(name, wide, len(store), len(classes))
        if captions is not None and len(captions) != len(store):
            raise UsageError(f"data {name!r} has {len(captions)} captions for {len(store)} samples; give one for each")
        texts = None if captions is None else tuple(captions)
        fingerprint = _fingerprint(store, wide, texts, classes)
        report = report or DataReport(read=len(store))
        return cls(name, store, wide, texts, tuple(classes), fingerprint, report)

    def __len__(self) -> int:
        return len(self.store if self.rows is None else self.rows)

    @property
    def is_images(self) -> bool:
        """Whether the samples are pictures, not points or latents."""
        return self.store.dtype == np.uint8

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample of `batch`: (C, H, W), or (D,) for points."""
        if not self.is_images:
            return tuple(self.store.shape[1:])
        height, width, channels = self.store.shape[1:]
        return (channels, height, width)

    @property
    def values(self) -> Array:
        """All samples as stored, (N, H, W, C) uint8, or float32; of a split a copy, of a whole set not."""
        return self.store if self.rows is None else self.store[self.rows]

    def batch(self, index: Tensor, flip: Tensor | None = None) -> Batch:
        """Samples by number.

        Args:
            index: Which, (B,) int64, 0 <= index < len(self).
            flip: Which of them are mirrored left to right, (B,) bool; pictures, or what was made of mirrored ones too.

        Returns:
            `x0` float32, pixels as value / 127.5 - 1; `cond` with `label` where there are labels, and the companions;
            `index`.

        Raises:
            UsageError: An index out of range, or points, or latents without mirrored ones, to be mirrored.
        """
        places = index.numpy()
        if len(places) and not (places.min() >= 0 and places.max() < len(self)):
            raise UsageError(
                f"index {places.min()}..{places.max()} is not in data {self.name!r}, which has {len(self)} samples"
            )
        rows = places if self.rows is None else self.rows[places]
        picked = np.take(self.store, rows, axis=0)
        turned = None if flip is None else flip.numpy()
        if turned is not None:
            if self.is_images:
                picked[turned] = picked[turned, :, ::-1]
            elif self.mirrored is not None:
                picked[turned] = np.take(self.mirrored, rows[turned], axis=0)
            else:
                raise UsageError(f"data {self.name!r} are no pictures and cannot be mirrored; leave flip out")
        if self.is_images:
            picked = pixels(picked)
        cond = Conditions() if self.labels is None else Conditions.of(label=torch.from_numpy(self.labels[places]))
        for name, companion in self.companions.items():
            cond = companion.added(cond, name, places, turned)
        return Batch(x0=torch.from_numpy(picked), cond=cond, index=index)

    def beside(self, **companions: Companion) -> Dataset:
        """The same samples with more conditions beside them, by name.

        Raises:
            UsageError: Not one value for each sample.
        """
        for name, companion in companions.items():
            if len(companion) != len(self):
                raise UsageError(
                    f"condition {name!r} has {len(companion)} values for {len(self)} samples of data {self.name!r}; "
                    "give one for each"
                )
        return replace(self, companions={**self.companions, **companions})

    def captions_of(self, index: Tensor) -> tuple[str, ...]:
        """Captions by number, (B,) int64 -> B texts.

        Raises:
            UsageError: There are no captions.
        """
        if self.captions is None:
            raise UsageError(f"data {self.name!r} have no captions; choose data that do, or train without text")
        return tuple(self.captions[place] for place in index.tolist())

    def split(self, holdout: float, seed: int) -> tuple[Dataset, Dataset]:
        """Divide at random into a part to train on and a part held out; both share the store.

        Args:
            holdout: Share that is held out, between 0 and 1.
            seed: Of the division.

        Raises:
            UsageError: One of the parts would be empty.
        """
        held = round(holdout * len(self))
        if not 0 < held < len(self):
            raise UsageError(
                f"holdout {holdout} of the {len(self)} samples of data {self.name!r} leaves a part empty; "
                f"choose a share from {1 / len(self):.2g} to {1 - 1 / len(self):.2g}"
            )
        order = permutation(seed, "split", 0, len(self)).numpy()
        return (
            self._view(np.sort(order[held:]), f"train/{holdout}/{seed}"),
            self._view(np.sort(order[:held]), f"held/{holdout}/{seed}"),
        )

    def _view(self, places: NDArray[np.int64], words: str) -> Dataset:
        return replace(
            self,
            rows=places if self.rows is None else self.rows[places],
            labels=None if self.labels is None else self.labels[places],
            captions=None if self.captions is None else tuple(self.captions[place] for place in places),
            companions={name: companion.of(places) for name, companion in self.companions.items()},
            fingerprint=hashlib.sha256(f"{self.fingerprint}/{words}".encode()).hexdigest()[:32],
        )


def _check_values(name: str, values: Array, *, latents: bool) -> None:
    """Pixels or finite points, at least one."""
    rank = 4 if latents or values.dtype == np.uint8 else 2
    if values.ndim != rank or not values.size:
        raise UsageError(
            f"data {name!r} have shape {values.shape} and type {values.dtype}; "
            "they must be uint8 (N, H, W, C) or floats (N, D), with at least one sample"
        )
    if values.dtype == np.uint8:
        return
    rows = max(1, _AT_ONCE // values[0].nbytes)
    for start in range(0, len(values), rows):
        finite = np.isfinite(values[start : start + rows]).reshape(-1, values[0].size).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            told = f": {values[row]}" if values.ndim == 2 else ""
            raise UsageError(f"data {name!r} hold NaN or infinity in row {row}{told}; mend or remove that row")


def _check_labels(name: str, labels: Array | None, samples: int, classes: int) -> None:
    if labels is None:
        return
    if labels.shape != (samples,):
        raise UsageError(f"data {name!r} have labels of shape {labels.shape}; they must be ({samples},), one a sample")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UsageError(f"data {name!r} have label {labels[row]} in row {row}; there are {classes} classes, from 0")


def _fingerprint(values: Array, labels: Array | None, captions: Sequence[str] | None, classes: Sequence[str]) -> str:
    """32 hexadecimal digits of a hash of the content, read in pieces."""
    digest = hashlib.sha256(repr((values.dtype.str, values.shape, tuple(classes), captions)).encode())
    if labels is not None:
        digest.update(labels.tobytes())
    rows = max(1, _AT_ONCE // values[0].nbytes)
    for start in range(0, len(values), rows):
        digest.update(np.ascontiguousarray(values[start : start + rows]).data)
    return digest.hexdigest()[:32]
