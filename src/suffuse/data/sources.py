"""Folders and zips as one thing: named files that can be read, and nothing that leads out of them.

A link is never followed. A zip is never unpacked to disk, and one that lies about its names, holds links or could
swell beyond its limits is refused as a whole before any entry is read.
"""

from __future__ import annotations

import abc
import hashlib
import os
import posixpath
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pydantic import Field

from suffuse.base.errors import UsageError
from suffuse.base.part import Part

__all__ = ["Source", "ZipLimits", "open_source"]

LINK = "link, not followed"
ODD = "neither file nor folder"
RUN = "folder of a run, not of data"

_JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_OF_RUN = frozenset({".lock", "recipe.yaml"})  # what a folder that was trained in has from its first moment on
_RATIO_FROM = 1 << 20  # bytes: below this size a high ratio does no harm (blank pictures reach the format's 1000)
_STREAMED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the methods that never unpack more than they are asked for


class ZipLimits(Part):
    """What a zip may promise before it is refused.

    Attributes:
        entries: Most files.
        entry_bytes: Most bytes of one file, unpacked.
        ratio: Most unpacked bytes for a packed one, in files of a mebibyte and more.
        total_bytes: Most bytes of all files, unpacked.
    """

    entries: int = Field(default=2_000_000, ge=1)
    entry_bytes: int = Field(default=1 << 28, ge=1)
    ratio: float = Field(default=200.0, ge=1)
    total_bytes: int = Field(default=1 << 40, ge=1)


class Source(abc.ABC):
    """Named files. Names are relative with forward slashes; two files may share one (in a zip).

    Attributes:
        names: Of the files, sorted, without hidden ones and what operating systems leave behind.
        folders: Of the folders, likewise, also those without files.
        passed: Reason -> names of what was not taken.
        key: Hash that changes when a file does.
    """

    names: tuple[str, ...]
    folders: frozenset[str]
    passed: dict[str, list[str]]
    key: str

    @abc.abstractmethod
    def read(self, place: int) -> bytes:
        """Content of file `names[place]`; may be called from several threads.

        Raises:
            OSError: It cannot be read.
            zipfile.BadZipFile, zlib.error: Its entry is damaged.
        """


def open_source(path: Path, limits: ZipLimits) -> AbstractContextManager[Source]:
    """A folder's or a zip's files, for a `with` block.

    Raises:
        UsageError: There is no such path, it is neither, or it is a zip that must not be trusted.
    """
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise UsageError(f"there is no folder or zip {str(path)!r}; check the path")
    return _zip(path, limits)


def _is_junk(name: str) -> bool:
    return any(piece.startswith(".") or piece in _JUNK for piece in name.split("/"))


class _Folder(Source):
    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.passed = {}
        stamps: dict[str, tuple[int, int]] = {}
        folders: set[str] = set()
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            entries = self._entries(folder)
            if folder and not _OF_RUN.isdisjoint(entry.name for entry in entries):
                folders.discard(folder)
                self.passed.setdefault(RUN, []).append(folder)
                continue
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if _is_junk(entry.name):
                    continue
                if entry.is_symlink():
                    self.passed.setdefault(LINK, []).append(name)
                elif entry.is_dir(follow_symlinks=False):
                    folders.add(name)
                    waiting.append(name)
                elif entry.is_file(follow_symlinks=False):
                    found = entry.stat(follow_symlinks=False)
                    stamps[name] = (found.st_size, found.st_mtime_ns)
                else:
                    self.passed.setdefault(ODD, []).append(name)
        self.names, self.folders = tuple(sorted(stamps)), frozenset(folders)
        for names in self.passed.values():
            names.sort()
        # The place belongs to the key: sizes and times alone are equal in folders made by a reproducible build.
        facts = repr((str(self.root), sorted(stamps.items()), sorted(folders), sorted(self.passed.items())))
        self.key = hashlib.sha256(facts.encode()).hexdigest()

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / folder) as entries:
                return list(entries)
        except OSError as error:
            raise UsageError(f"cannot read the folder {str(self.root / folder)!r}: {error.strerror}") from None

    def read(self, place: int) -> bytes:
        # Should a link have taken the file's place since it was listed, the system refuses to open it.
        with open(self.root / self.names[place], "rb", opener=_open_no_link) as file:
            return file.read()


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


@contextmanager
def _folder(root: Path) -> Iterator[Source]:
    yield _Folder(root)


class _Zip(Source):
    def __init__(self, path: Path, archive: zipfile.ZipFile, limits: ZipLimits) -> None:
        self.archive = archive
        entries = archive.infolist()
        _refuse_danger(path, entries, limits)
        # Normal names are without "./" and doubled or final slashes, which some packers write.
        named = ((posixpath.normpath(entry.filename), entry) for entry in entries)
        kept = sorted((pair for pair in named if not _is_junk(pair[0])), key=lambda pair: pair[0])
        files = [(name, entry) for name, entry in kept if not entry.is_dir()]
        self.names, self.entries = tuple(name for name, _ in files), tuple(entry for _, entry in files)
        self.folders = _with_parents({name for name, entry in kept if entry.is_dir()}, self.names)
        self.passed = {}
        facts = [(name, entry.file_size, entry.CRC) for name, entry in files]
        self.key = hashlib.sha256(repr((facts, sorted(self.folders))).encode()).hexdigest()

    def read(self, place: int) -> bytes:
        return self.archive.read(self.entries[place])


def _with_parents(folders: set[str], names: Iterable[str]) -> frozenset[str]:
    """Some folders, those in which files lie, and those above all these."""
    found: set[str] = set()
    waiting = folders | {posixpath.dirname(name) for name in names}
    while waiting:
        found |= waiting
        waiting = {posixpath.dirname(name) for name in waiting} - found
    return frozenset(found - {""})


@contextmanager
def _zip(path: Path, limits: ZipLimits) -> Iterator[Source]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise UsageError(f"{str(path)!r} is not a whole zip ({error}); name a folder or a zip of pictures") from None
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    with archive:
        yield _Zip(path, archive, limits)


def _refuse_danger(path: Path, entries: list[zipfile.ZipInfo], limits: ZipLimits) -> None:
    """Refuse a zip whose directory alone shows that it is broken by design."""
    shown = f"the zip {str(path)!r}"
    if len(entries) > limits.entries:
        raise UsageError(f"{shown} has {len(entries)} files, more than zip_limits.entries = {limits.entries}; raise it")
    for entry in entries:
        why = _danger(entry, limits)
        if why:
            raise UsageError(f"{shown} is refused: its entry {entry.filename!r} {why}")
    total = sum(entry.file_size for entry in entries)
    if total > limits.total_bytes:
        raise UsageError(
            f"{shown} is refused: it unpacks to {total} bytes, more than zip_limits.total_bytes = {limits.total_bytes}"
        )


def _danger(entry: zipfile.ZipInfo, limits: ZipLimits) -> str | None:
    """What is wrong with an entry, in words; None when nothing is."""
    # `orig_filename` is what the file says; `filename` has been cut at a zero byte.
    name = entry.orig_filename.replace("\\", "/")
    if "\0" in name:
        return "has a zero byte in its name"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has an absolute name; pack it with relative names"
    if ".." in name.split("/"):
        return "climbs out of its folder"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link; pack the files themselves"
    if entry.flag_bits & 0x1:
        return "is encrypted; pack it without a password"
    if entry.compress_type not in _STREAMED:
        return "is packed by a method other than store and deflate; pack it again"
    if entry.file_size > limits.entry_bytes:
        return f"unpacks to {entry.file_size} bytes, more than zip_limits.entry_bytes = {limits.entry_bytes}"
    if entry.file_size > _RATIO_FROM and entry.file_size > limits.ratio * entry.compress_size:
        return f"unpacks to over {limits.ratio:g} times its packed size (zip_limits.ratio), as a zip bomb does"
    return None
