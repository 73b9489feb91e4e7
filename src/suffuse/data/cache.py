"""The cache of pictures and latents: a sealed folder that is mapped into memory, found by content and settings.

`images.npy` (uint8 N x H x W x C, or float32 N x C x H x W), `picture.npy` (the second picture of each, where there
are such), `labels.npy`, `captions.json`, `facts.json` (classes,
fingerprint, report) and the manifest of `suffuse.base.files`. It appears whole or not at all; of two processes that
want the same one, the second waits and takes the first's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError
from suffuse.base.locking import locked
from suffuse.base.part import parse
from suffuse.data.companion import Companion
from suffuse.data.dataset import Dataset
from suffuse.data.report import DataReport

__all__ = ["BESIDE", "ArrayFile", "Filled", "cached", "default_cache"]

FORMAT_VERSION = 1
IMAGES, LABELS, CAPTIONS, FACTS = "images.npy", "labels.npy", "captions.json", "facts.json"
BESIDE = "picture"
"""Name of the condition that second pictures are, and of their file."""
_BLOCK = 1024  # pictures copied at a time when a file of pixels is widened


def default_cache() -> Path:
    """The user's cache folder, by the XDG convention."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "suffuse" / "data"


@dataclass(frozen=True)
class Filled:
    """What came with the pixels.

    Attributes:
        labels: (N,) class numbers; None without classes.
        captions: N texts; None without captions.
        classes: Names of the classes.
        report: What happened while they were read.
    """

    labels: NDArray[np.int64] | None
    captions: tuple[str, ...] | None
    classes: tuple[str, ...]
    report: DataReport


def cached(root: Path | None, name: str, key: Mapping[str, object], fill: Callable[[ArrayFile], Filled]) -> Dataset:
    """Open the cache of `key`, or make it.

    Args:
        root: Folder of the caches; the user's when None.
        name: Of the data set.
        key: All that decides the content, as JSON values.
        fill: Decodes the pictures into a file of pixels; called only when there is no whole cache.

    Raises:
        RunError: The cache cannot be written or read.
    """
    root = root or default_cache()
    words = json.dumps({"format_version": FORMAT_VERSION, **key}, sort_keys=True)
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", name)[:40].strip("-") or "data"
    # A folder around each cache: what is locked and cleaned is this cache's alone.
    around = root / f"{slug}-{hashlib.sha256(words.encode()).hexdigest()[:24]}"
    folder = around / "decoded"
    notes: tuple[str, ...] = ()
    if _damage(folder) is not None:
        files.make_folder(around)
        with locked(around):
            notes = _make(folder, name, fill)
    dataset = _open(folder, name)
    return replace(dataset, report=dataset.report.replace(notes=(*dataset.report.notes, *notes)))


def _damage(folder: Path) -> str | None:
    """Why a cache cannot be used; None when it can."""
    if not folder.exists():
        return "it is not there"
    try:
        files.verify(folder, hashes=False)
    except (RunError, UsageError) as error:
        return str(error)
    return None


def _make(folder: Path, name: str, fill: Callable[[ArrayFile], Filled]) -> tuple[str, ...]:
    """Make a cache that is not whole, and say what was wrong with the old one."""
    damage = _damage(folder)
    if damage is None:  # made while this process waited for the lock
        return ()
    notes: tuple[str, ...] = ()
    files.clean_staging(folder.parent)
    if folder.exists():
        files.discard(folder)
        notes = (f"the cache of the data was damaged and is made again ({damage})",)
    with files.staged(folder) as staging:
        with ArrayFile(staging / IMAGES) as pixels:
            filled = fill(pixels)
        _finish(staging, name, filled)
    return notes


def _finish(staging: Path, name: str, filled: Filled) -> None:
    """Write all but the pixels."""
    store = np.load(staging / IMAGES, mmap_mode="r", allow_pickle=False)
    dataset = Dataset.of(
        name,
        store,
        labels=filled.labels,
        captions=filled.captions,
        classes=filled.classes,
        report=filled.report,
        latents=store.dtype != np.uint8,
    )
    if dataset.labels is not None:
        np.save(staging / LABELS, dataset.labels, allow_pickle=False)
    if dataset.captions is not None:
        files.write_json(staging / CAPTIONS, {"format_version": FORMAT_VERSION, "captions": dataset.captions})
    facts = {
        "format_version": FORMAT_VERSION,
        "classes": dataset.classes,
        "fingerprint": _with_beside(dataset.fingerprint, staging),
        "report": dataset.report.dump(),
    }
    files.write_json(staging / FACTS, facts)


def _with_beside(fingerprint: str, folder: Path) -> str:
    """The samples' fingerprint, or another one where second pictures belong to them."""
    path = folder / f"{BESIDE}.npy"
    if not path.is_file():
        return fingerprint
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"{fingerprint}/{found}".encode()).hexdigest()[:32]


def _open(folder: Path, name: str) -> Dataset:
    facts = files.read_json(folder / FACTS)
    captions, labels, beside = folder / CAPTIONS, folder / LABELS, folder / f"{BESIDE}.npy"
    companions = {BESIDE: Companion(_mapped(beside), np.arange(len(_mapped(beside))))} if beside.exists() else {}
    return Dataset(
        name=name,
        store=_mapped(folder / IMAGES),
        companions=companions,
        labels=np.load(labels, allow_pickle=False) if labels.exists() else None,
        captions=tuple(files.read_json(captions)["captions"]) if captions.exists() else None,
        classes=tuple(facts["classes"]),
        fingerprint=facts["fingerprint"],
        report=parse(DataReport, facts["report"]),
    )


def _mapped(path: Path) -> NDArray[Any]:  # Any: uint8 pixels or float32 numbers
    # As a plain array: the subclass for mapped files costs time with every batch.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


class ArrayFile:
    """An `.npy` file of samples that grows one by one, so that memory never holds them all.

    All have the type of the first. Grey pictures (one channel) are stored grey until the first coloured one, then all
    as RGB.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.uint8)
        self._file = path.open("w+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.count:
                self._write_header()
        finally:
            self._file.close()

    @property
    def side(self) -> tuple[int, ...]:
        """Height and width of the pictures; empty before the first."""
        return self._shape[:2]

    def add(self, pixels: NDArray[Any]) -> None:  # Any: uint8 pixels or float32 numbers
        """Append a picture, (H, W, C), or a latent, (C, H, W), of the size of the first."""
        if not self._shape:
            self._shape, self._dtype = pixels.shape, pixels.dtype
            self._write_header()
        if pixels.shape[-1] > self._shape[-1]:
            self._widen(pixels.shape)
        # `repeat` by 1 is a copy in memory order, which the file needs anyway.
        self._file.write(pixels.repeat(self._shape[-1] // pixels.shape[-1], axis=-1).data)
        self.count += 1

    def _write_header(self) -> None:
        """Write the header; numpy pads it so that the first axis can grow in place."""
        self._file.seek(0)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.count, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def _widen(self, shape: tuple[int, ...]) -> None:
        """Write what is there again, with as many equal channels as `shape` has."""
        narrow, count, times = self._file, self.count, shape[2] // self._shape[2]
        start = narrow.tell() - count * int(np.prod(self._shape))
        narrow.seek(start)
        wide = self.path.with_name("wide")
        self._file, self.count, self._shape = wide.open("w+b"), 0, shape
        self._write_header()
        with narrow:
            block = _BLOCK * int(np.prod(shape)) // times
            while data := narrow.read(block):
                self._file.write(np.frombuffer(data, np.uint8).repeat(times).data)
        self.count = count
        wide.replace(self.path)
