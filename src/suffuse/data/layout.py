"""What the names of files say: which are pictures, of which class, with which caption.

The conventions: a folder for each class; or `metadata.jsonl` beside the pictures, one JSON object a line with
`file_name` and any of a caption (`text` or `caption`) and a label (the image-folder convention of Hugging Face
datasets); or pictures without either. A single folder around everything is looked through.
"""

from __future__ import annotations

import json
import posixpath
import unicodedata
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from suffuse.base.errors import UsageError
from suffuse.data.decode import SUFFIXES
from suffuse.data.report import summary
from suffuse.data.sources import Source

__all__ = ["Labels", "Layout", "Picture", "class_names", "read_layout"]

Labels = Literal["auto", "folders", "metadata", "none"]
METADATA = "metadata.jsonl"
CAPTIONS = ("text", "caption")
MISSING = "named in metadata.jsonl but not there"
BESIDE_MISSING = "its second picture is not there"
UNLISTED = "not named in metadata.jsonl"
_SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})


@dataclass(frozen=True)
class Picture:
    """A file to decode.

    Attributes:
        name: Relative to the source.
        place: Number of the file in the source.
        label: Name of its class; None without classes.
        caption: Its text; None without captions.
        beside: Number of the file of the picture that goes with it; None without.
    """

    name: str
    place: int
    label: str | None = None
    caption: str | None = None
    beside: int | None = None


@dataclass
class Layout:
    """What a source holds.

    Attributes:
        pictures: In the order of their names.
        classes: Names of the classes that there should be, with and without pictures.
        lost: Reason -> names of pictures that should be there and are not.
        left: Reason -> names of files left out on purpose.
        notes: What the user should know.
    """

    pictures: list[Picture]
    classes: tuple[str, ...] = ()
    lost: dict[str, list[str]] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_layout(
    source: Source,
    shown: str,
    *,
    labels: Labels,
    label_key: str,
    caption_key: str | None,
    condition_key: str | None = None,
) -> Layout:
    """Find the pictures of a source with their classes and captions.

    Args:
        source: Where they are.
        shown: What messages call the source.
        labels: Where classes come from: `metadata` or `folders` alone, neither, or (`auto`) the metadata where there
            are any, otherwise class folders where there are any.
        label_key: The label in a line of the metadata.
        caption_key: The caption there; `text` or `caption`, whichever there is, when None.
        condition_key: The name of the file of a second picture there; None for no second pictures.

    Raises:
        UsageError: No pictures, or classes and metadata that cannot be understood; the file or line is named.
    """
    if condition_key is not None and labels == "folders":
        raise UsageError(
            f"condition_key {condition_key!r} is a key of {METADATA}; choose data.labels=auto or data.labels=metadata"
        )
    metadata = [name for name in source.names if posixpath.basename(name) == METADATA]
    if len(metadata) > 1:
        raise UsageError(f"{shown} has several {METADATA} ({_some(metadata)}); name the folder of one of them")
    if metadata and labels != "folders":
        owner = f"{metadata[0]!r} of {shown}"
        try:
            lines = source.read(source.names.index(metadata[0]))
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"cannot read {owner}: {error}; mend it, or choose data.labels=folders") from None
        rows = _rows(lines, owner, folder=posixpath.dirname(metadata[0]))
        layout = _by_metadata(source, shown, rows, labels=labels, label_key=label_key, caption_key=caption_key)
        if condition_key is not None:
            _pair(layout, source, rows, condition_key, f"{METADATA} of {shown}")
        return layout
    if labels == "metadata" or condition_key is not None:
        mend = "choose data.labels=folders or data.labels=none" if condition_key is None else "leave condition_key out"
        raise UsageError(f"{shown} has no {METADATA}; add one, or {mend}")
    return _by_folders(source, shown, labels)


def _by_folders(source: Source, shown: str, labels: Labels) -> Layout:
    pictures = [Picture(name, place) for place, name in enumerate(source.names) if _suffix(name) in SUFFIXES]
    others = Counter(
        _suffix(name) or posixpath.basename(name) for name in source.names if _suffix(name) not in SUFFIXES
    )
    layout = Layout(pictures)
    if others:
        layout.notes.append(f"ignored {others.total()} files that are not pictures ({summary(others)})")
    if not pictures:
        raise UsageError(f"{shown} has no pictures ({', '.join(sorted(SUFFIXES))}); {_what_there_is(source, layout)}")
    # Pictures without any in a folder beside them have no classes, whatever else lies there.
    folders = source.folders if any("/" in picture.name for picture in pictures) else frozenset()
    root = _root(pictures, folders)
    classes = sorted({_first(name, root) for name in folders if _inside(name, root)})
    if labels == "none" or (labels == "auto" and not classes):
        return layout
    loose = [picture.name for picture in pictures if "/" not in picture.name.removeprefix(root)]
    if loose or not classes:
        raise UsageError(
            f"{shown} has pictures outside its class folders ({_some(loose)}); move them into one, "
            "or choose data.labels=none"
        )
    if labels == "auto" and len(classes) > 1 and _SPLITS.issuperset(name.lower() for name in classes):
        raise UsageError(
            f"the folders of {shown} are named like splits, not classes ({', '.join(classes)}); "
            "name one of them as the path, or choose data.labels=folders or data.labels=none"
        )
    layout.pictures = [Picture(p.name, p.place, _first(p.name, root)) for p in pictures]
    layout.classes = class_names(classes)
    layout.notes.extend(_alike(classes))
    return layout


def _what_there_is(source: Source, layout: Layout) -> str:
    """Words for a source without pictures, so that the user sees what was looked at."""
    passed = [f"{len(names)} times: {reason}" for reason, names in source.passed.items()]
    return "; ".join([*layout.notes, *passed]) or "it is empty"


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _inside(name: str, root: str) -> bool:
    return name.startswith(root) and len(name) > len(root)


def _first(name: str, root: str) -> str:
    """The first folder below the root."""
    return name.removeprefix(root).split("/", 1)[0]


def _root(pictures: Iterable[Picture], folders: Iterable[str]) -> str:
    """Prefix ("" or "a/b/") of the folder in which pictures or several folders lie: a lone folder is looked through."""
    children: defaultdict[str, set[str]] = defaultdict(set)
    for name in folders:
        children[posixpath.dirname(name)].add(name)
    parents = {posixpath.dirname(picture.name) for picture in pictures}
    root = ""
    while root not in parents and len(children[root]) == 1:
        (root,) = children[root]
    return f"{root}/" if root else ""


def class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Classes in order: by number where all are whole numbers, by name otherwise."""
    unique = set(names)
    for name in unique:
        _check_whole(name, "there is a class")
    if all(name.isascii() and name.isdecimal() for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def _alike(classes: Iterable[str]) -> list[str]:
    """Notes on classes that a person would read as one: equal but for case or for the way accents are written."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[unicodedata.normalize("NFC", name).casefold()].append(name)
    return [
        f"classes {_some(group)} differ only in case or in how letters are encoded; they are kept apart"
        for group in groups.values()
        if len(group) > 1
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")


Row = Mapping[str, Any]  # Any: JSON values


def _rows(data: bytes, shown: str, folder: str) -> dict[str, tuple[int, Row]]:
    """Lines of the metadata by the picture's name relative to the source: name -> (line number, object)."""
    rows: dict[str, tuple[int, Row]] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"line {number} of {shown} is not JSON ({error}); mend or remove it") from None
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise UsageError(f"line {number} of {shown} has no 'file_name'; each line needs one")
        _check_whole(row["file_name"], f"line {number} of {shown} has file_name")
        given = PurePosixPath(row["file_name"])
        if given.is_absolute() or ".." in given.parts:
            raise UsageError(f"line {number} of {shown} leads out of the folder: {str(given)!r}; use names inside it")
        name = str(PurePosixPath(folder) / given)
        if name in rows:
            raise UsageError(f"lines {rows[name][0]} and {number} of {shown} are both for {str(given)!r}; remove one")
        rows[name] = (number, row)
    return rows


def _by_metadata(
    source: Source,
    shown: str,
    rows: Mapping[str, tuple[int, Row]],
    *,
    labels: Labels,
    label_key: str,
    caption_key: str | None,
) -> Layout:
    """Pictures that the metadata name, with what these say."""
    owner = f"{METADATA} of {shown}"
    keys = {key for _, row in rows.values() for key in row}
    if caption_key is None:
        caption_key = next((key for key in CAPTIONS if key in keys), None)
    elif caption_key not in keys:
        raise UsageError(f"{owner} has no {caption_key!r}; its keys are {', '.join(sorted(keys)) or 'none'}")
    if labels == "metadata" and label_key not in keys:
        raise UsageError(f"{owner} has no {label_key!r}; its keys are {', '.join(sorted(keys)) or 'none'}")
    use_labels = labels != "none" and label_key in keys
    pictures = []
    for place, name in enumerate(source.names):
        if name in rows:
            number, row = rows[name]
            label = _label(row, label_key, f"line {number} of {owner}") if use_labels else None
            caption = _caption(row, caption_key, f"line {number} of {owner}") if caption_key else None
            pictures.append(Picture(name, place, label, caption))
    if not pictures:
        raise UsageError(f"{owner} names none of the pictures that are there; its names are relative to its own folder")
    layout = Layout(pictures, class_names(picture.label for picture in pictures if picture.label is not None))
    layout.notes.extend(_alike(layout.classes))
    there = set(source.names)
    if lost := [name for name in rows if name not in there]:
        layout.lost[MISSING] = lost
    if unlisted := [name for name in source.names if name not in rows and _suffix(name) in SUFFIXES]:
        layout.left[UNLISTED] = unlisted
    return layout


def _pair(layout: Layout, source: Source, rows: Mapping[str, tuple[int, Row]], key: str, owner: str) -> None:
    """Give every picture the one that its line names under `key`; lines whose second picture is missing are lost."""
    places = {name: place for place, name in enumerate(source.names)}
    pairs, lost, seconds = [], [], set()
    for picture in layout.pictures:
        number, row = rows[picture.name]
        given = row.get(key)
        if not isinstance(given, str) or not given:
            raise UsageError(f"line {number} of {owner} has {key} {given!r}; give the name of a picture there")
        path = PurePosixPath(given)
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(f"line {number} of {owner} leads out of the folder: {given!r}; use names inside it")
        # Names are relative to the metadata, and so is the picture's own.
        around = picture.name.removesuffix(str(PurePosixPath(row["file_name"])))
        name = str(PurePosixPath(around) / path)
        seconds.add(name)
        if name in places:
            pairs.append(replace(picture, beside=places[name]))
        else:
            lost.append(f"{picture.name} (line {number}: {given})")
    layout.pictures = pairs
    if lost:
        layout.lost[BESIDE_MISSING] = lost
    if UNLISTED in layout.left:
        layout.left[UNLISTED] = [name for name in layout.left[UNLISTED] if name not in seconds]
        if not layout.left[UNLISTED]:
            del layout.left[UNLISTED]


def _label(row: Row, key: str, shown: str) -> str:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise UsageError(f"{shown} has {key} {value!r}; a label is a text or a whole number")
    _check_whole(str(value), f"{shown} has {key}")
    return str(value)


def _caption(row: Row, key: str, shown: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise UsageError(f"{shown} has {key} {value!r}; a caption is a text")
    _check_whole(value, f"{shown} has {key}")
    return value


def _check_whole(text: str, shown: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON may hold half a pair of surrogates, and names of files bytes that are no UTF-8
        raise UsageError(f"{shown} {text!r}, which is no whole UTF-8; write it anew") from None
