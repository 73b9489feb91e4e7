"""Decode many pictures by a few threads into the cache, and account for every one of them."""

from __future__ import annotations

import abc
import functools
import hashlib
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from suffuse.base.errors import UsageError
from suffuse.data.aspects import nearest_shape, shapes_of_aspects, upright_size
from suffuse.data.buckets import Buckets
from suffuse.data.cache import BESIDE, ArrayFile, Filled, cached
from suffuse.data.dataset import Dataset
from suffuse.data.decode import SMALL, BadPicture, Decoded, PictureRules, decode, quiet_decoder
from suffuse.data.layout import Layout, Picture
from suffuse.data.part import DataPart
from suffuse.data.report import SHOWN, DataReport, Skipped, summary

__all__ = ["Listing", "PicturesPart"]

T = TypeVar("T")
R = TypeVar("R")

BAD_BESIDE = "its second picture cannot be used"
# Settings that decide nothing where there are no second pictures: caches of before them are found again.
_SECOND = ("condition_key", "condition_resize")
UNREADABLE = "cannot be read"


@dataclass(frozen=True)
class Listing:
    """Pictures to decode.

    Attributes:
        name: Of the data set.
        shown: What messages call the source.
        layout: The pictures with their classes and captions.
        read: Number of a picture's file -> its bytes.
        key: Hash of the source's content.
    """

    name: str
    shown: str
    layout: Layout
    read: Callable[[int], bytes]
    key: str


class PicturesPart(PictureRules, DataPart, abc.ABC):
    """A source of picture files; `PictureRules` say how they become samples.

    Attributes:
        on_error: `skip` leaves out pictures that cannot be used, up to `max_bad`; `refuse` stops at any.
        max_bad: Largest share of such pictures.
        aspects: Widths over heights, such as [1.0, 1.5, 0.667], for generators that learn pictures of several shapes:
            each picture is cropped to the nearest, of about size x size pixels, and a batch has one. All others, and
            whatever judges samples, see squares. Empty for squares alone.
        multiple: Of which both sides of those shapes are multiples.
    """

    on_error: Literal["skip", "refuse"] = "skip"
    max_bad: float = Field(default=0.01, ge=0, le=1)
    aspects: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()
    multiple: int = Field(default=8, ge=1)

    @abc.abstractmethod
    def _listing(self) -> AbstractContextManager[Listing]:
        """What there is to decode; open as long as it is read."""

    @property
    def _beside(self) -> Literal["smooth", "nearest"] | None:
        """How the second picture of each sample is resized; None without such."""
        return None

    @model_validator(mode="after")
    def _square(self) -> Self:
        if self.aspects and not isinstance(self.size, int):
            raise ValueError(f"aspects want one number for size, that of the squares, not {self.size}")
        if isinstance(self.size, int):
            shapes_of_aspects(self.size, self.aspects, self.multiple)
        return self

    def load(self, cache: Path | None = None) -> Dataset:
        """Decode the pictures once into the cache, and open it.

        Raises:
            UsageError: No pictures, too many that cannot be used (they are named), pictures of several sizes without
                `size`, classes or captions that cannot be understood.
            RunError: The cache cannot be written.
        """
        with self._listing() as listing:
            return cached(cache, listing.name, self._key(listing), lambda pixels: self._fill(listing, pixels))

    def _key(self, listing: Listing) -> dict[str, object]:
        # Where the pictures lie is no matter: the content's key finds a moved zip again.
        unused = ("path", "zip_limits", "aspects", "multiple", *(() if self._beside else _SECOND))
        settings = {name: value for name, value in self.dump().items() if name not in unused}
        return {"settings": settings, "content": listing.key}

    def load_buckets(self, cache: Path | None = None) -> Buckets | None:
        """The pictures in the shapes of `aspects`, each decoded once into the cache; None without aspects.

        Raises:
            UsageError: As for `load`, and aspects that come to the same shape.
            RunError: As for `load`.
        """
        if not self.aspects:
            return None
        assert isinstance(self.size, int)
        shapes = shapes_of_aspects(self.size, self.aspects, self.multiple)
        squares = self.load(cache)
        with self._listing() as listing:
            sizes = _sizes(listing, cache)
            # What `load` left out is not learned either: too small, or of a class that has no other pictures.
            kept = np.full(len(sizes), fill_value=True) if self.small != "skip" else sizes.min(axis=1) >= self.size
            known = np.array([p.label is None or p.label in squares.classes for p in listing.layout.pictures])
            places = np.where(kept & known, nearest_shape(sizes, shapes), -1)
            pictures, parts = listing.layout.pictures, []
            for number, shape in enumerate(shapes):
                own = self._within(shape, squares)
                chosen = [picture for picture, place in zip(pictures, places, strict=True) if place == number]
                if not chosen:
                    continue
                layout = replace(listing.layout, pictures=chosen, classes=squares.classes, notes=[], lost={}, left={})
                some = replace(listing, layout=layout, name=f"{listing.name}-{shape[1]}x{shape[0]}")
                key = {**own._key(listing), "pictures": _places_hash(chosen), "classes": squares.classes}
                with suppress(_EmptyBucketError):
                    part = cached(cache, some.name, key, functools.partial(own._fill, some, whole=False))
                    parts.append(replace(part, name=listing.name))
        return Buckets(tuple(parts))

    def _within(self, shape: tuple[int, int], squares: Dataset) -> Self:
        """This for one bucket: of the whole, `load` has judged what is bad, small and coloured."""
        channels = {1: "grey", 3: "rgb", 4: "rgba"}[squares.shape[0]]
        free = {"on_error": "skip", "max_bad": 1.0, "small": "upscale"}
        return self.replace(size=shape, aspects=(), channels=channels, **free)

    def _fill(self, listing: Listing, pixels: ArrayFile, *, whole: bool = True) -> Filled:
        tally, how = _Tally(), self._beside
        with ExitStack() as held:
            held.enter_context(quiet_decoder())
            beside = None
            if how is not None:
                beside = held.enter_context(ArrayFile(pixels.path.with_name(f"{BESIDE}.npy")))
            for picture, result, second in _attempts(listing, self, smooth=how != "nearest"):
                bad = next((one for one in (result, second) if isinstance(one, BadPicture)), None)
                if bad is not None:
                    tally.left[bad.reason].append(picture.name)
                    continue
                assert isinstance(result, Decoded)
                tally.sizes[_by(result.came_as)] += 1
                tally.converted.update(result.applied)
                if pixels.side and pixels.side != result.pixels.shape[:2]:
                    continue
                if beside is not None:
                    assert isinstance(second, Decoded)
                    _check_alike(listing, picture, result, second)
                    beside.add(second.pixels)
                pixels.add(result.pixels)
                tally.kept.append(picture)
        if not whole and not tally.kept:
            raise _EmptyBucketError
        self._judge(listing, tally)
        if len(tally.kept) < tally.sizes.total():
            raise UsageError(
                f"{listing.shown} has pictures of different sizes ({summary(tally.sizes)}); "
                "say which size they shall have, for example size=32"
            )
        return _filled(listing.layout, tally, whole=whole)

    def _judge(self, listing: Listing, tally: _Tally) -> None:
        """Refuse a source with too many pictures that cannot be used."""
        left, shown = tally.left, listing.shown
        if self.small == "refuse" and SMALL in left:
            raise UsageError(
                f"{shown} has pictures smaller than size = {self.size}: {Skipped.of(left[SMALL])}; "
                "lower size, or choose data.small=upscale or data.small=skip"
            )
        # That small pictures are left out is the user's wish, no fault of theirs.
        faults = {reason: names for reason, names in left.items() if reason != SMALL} | listing.layout.lost
        bad = sum(len(names) for names in faults.values())
        total = len(listing.layout.pictures) + sum(len(names) for names in listing.layout.lost.values())
        if bad > (self.max_bad * total if self.on_error == "skip" else 0):
            allowed = f"more than max_bad = {self.max_bad:g}" if self.on_error == "skip" else "on_error is 'refuse'"
            raise UsageError(
                f"{shown}: {bad} of {total} pictures cannot be used ({allowed}): {_named(faults)}; "
                "mend or remove them, or allow so many by data.on_error=skip "
                f"data.max_bad={-(-100 * bad // total) / 100:g}"
            )
        if not tally.kept:
            raise UsageError(f"{shown} has no picture that can be used; left out: {_named(left) or 'none'}")


class _EmptyBucketError(Exception):
    """No picture of a bucket can be decoded; `load` has named them."""


@dataclass
class _Tally:
    """What happened to the pictures."""

    kept: list[Picture] = field(default_factory=list)
    left: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    converted: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _named(left: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{reason}: {Skipped.of(names)}" for reason, names in left.items())


def _check_alike(listing: Listing, picture: Picture, first: Decoded, second: Decoded) -> None:
    if first.pixels.shape[:2] != second.pixels.shape[:2]:
        raise UsageError(
            f"{listing.shown}: {picture.name!r} is {_by(first.came_as)} and its second picture {_by(second.came_as)}; "
            "say which size they shall have, for example size=32"
        )


def _attempts(
    listing: Listing, rules: PictureRules, *, smooth: bool
) -> Iterator[tuple[Picture, Decoded | BadPicture, Decoded | BadPicture | None]]:
    """Every picture with what became of it, and of the one that goes with it, in order.

    Args:
        listing: The pictures.
        rules: Of both.
        smooth: How second pictures are resized.
    """

    def read(place: int, *, smooth: bool) -> Decoded | BadPicture:
        try:
            data = listing.read(place)
        except Exception as error:  # files vanish, rights lack, zip entries have wrong sums: all end in the report
            return BadPicture(UNREADABLE, str(error))
        try:
            return decode(data, rules, smooth=smooth)
        except BadPicture as error:
            return error

    def attempt(picture: Picture) -> tuple[Picture, Decoded | BadPicture, Decoded | BadPicture | None]:
        first = read(picture.place, smooth=True)
        if picture.beside is None:
            return picture, first, None
        second = read(picture.beside, smooth=smooth)
        bad = BadPicture(BAD_BESIDE, str(second)) if isinstance(second, BadPicture) else second
        return picture, first, bad

    return _in_order(attempt, listing.layout.pictures)


def _in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map` by threads (decoders release the interpreter's lock) that holds only a few results at a time."""
    workers = min(8, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers, thread_name_prefix="suffuse-decode") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _places_hash(pictures: Sequence[Picture]) -> str:
    """Of which of a source's files these are."""
    return hashlib.sha256(",".join(str(picture.place) for picture in pictures).encode()).hexdigest()


def _sizes(listing: Listing, cache: Path | None) -> NDArray[np.float32]:
    """Widths and heights of all pictures, (N, 2), read once; zeros of those that cannot be read."""

    def size(picture: Picture) -> tuple[int, int]:
        try:
            return upright_size(listing.read(picture.place))
        except Exception:  # as in `_attempts`, where it is told
            return (0, 0)

    def fill(file: ArrayFile) -> Filled:
        with quiet_decoder():
            for found in _in_order(size, listing.layout.pictures):
                file.add(np.array(found, np.float32)[:, None, None])
        return Filled(None, None, (), DataReport(read=file.count))

    key = {"sizes": listing.key, "pictures": _places_hash(listing.layout.pictures)}
    made = cached(cache, f"{listing.name}-sizes", key, fill)
    return made.store[:, :, 0, 0]


def _filled(layout: Layout, tally: _Tally, *, whole: bool = True) -> Filled:
    """Labels among the classes that have pictures (of a part among all), captions and the report."""
    kept, notes = tally.kept, list(layout.notes)
    present = {picture.label for picture in kept} if whole else set(layout.classes)
    classes = tuple(name for name in layout.classes if name in present)
    if dropped := [name for name in layout.classes if name not in present]:
        notes.append(f"classes without a picture are dropped: {Skipped.of(dropped)}")
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [numbers[picture.label] for picture in kept if picture.label is not None]
    captions = tuple(picture.caption for picture in kept if picture.caption is not None)
    if captions and (empty := [picture.name for picture in kept if not (picture.caption or "").strip()]):
        notes.append(f"captions that are empty stand for no text: {Skipped.of(empty)}")
    left = {**layout.left, **layout.lost, **tally.left}
    sizes = dict(tally.sizes.most_common(SHOWN))
    if len(tally.sizes) > SHOWN:
        sizes["others"] = tally.sizes.total() - sum(sizes.values())
    report = DataReport(
        read=len(kept),
        skipped={reason: Skipped.of(names) for reason, names in left.items()},
        converted=dict(sorted(tally.converted.items())),
        sizes=sizes,
        notes=tuple(notes),
    )
    return Filled(np.array(labels, np.int64) if classes else None, captions or None, classes, report)
