"""The one file layer: a file or a folder is there whole or not at all, and a failure names its path and its mend.

A file is written under a temporary name, flushed and renamed. A folder is staged beside its final name, flushed,
sealed by a manifest of sizes and hashes that is written last, and renamed once; `verify` finds what a power cut, a
lying disk or a careless hand left broken. All content reaches the disk through `_write`, `_sync` and `_rename`: tests
replace these to inject a full disk or a lost flush.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from suffuse.base.errors import RunError, UsageError

__all__ = [
    "append_line",
    "check_version",
    "clean_staging",
    "discard",
    "make_folder",
    "read_json",
    "read_lines",
    "sha256",
    "staged",
    "verify",
    "write_bytes",
    "write_json",
    "write_text",
]

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
_STAGING = re.compile(r"\.staging-([^/]+)-\d+-[0-9a-f]{8}")
_BLOCK = 4096  # bytes read at a time while looking for the last newline
_MENDS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EACCES: "permission is denied; change its rights or choose another place",
    errno.EPERM: "the operation is not permitted; change its rights or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
}


def _write(fd: int, data: bytes) -> None:
    """Write all of `data`; the system may take it in pieces."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync(fd: int) -> None:
    """Make a file's content, or a folder's entries, survive a power cut."""
    os.fsync(fd)


def _rename(source: Path, target: Path) -> None:
    """Give a file or a folder its final name in one step."""
    source.replace(target)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _explained(path: Path, verb: str = "write") -> Iterator[None]:
    """Turn the system's errors into a `RunError` with the final path and the mend."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's: libraries subclass OSError for troubles of their own
            raise
        shown = _STAGING.sub(r"\1", str(path))
        kept = "; what was saved before is kept" if verb == "write" else ""
        raise RunError(f"cannot {verb} {shown}: {_MENDS.get(error.errno, error)}{kept}") from error


def _staging_name(path: Path) -> Path:
    """A name in the same folder, hence on the same file system, that `clean_staging` recognises."""
    return path.with_name(f".staging-{path.name}-{os.getpid()}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def _claimed(path: Path, flags: int) -> Iterator[int]:
    """Open a file or folder and lock it: the sign that its writer lives, which a pid is not (containers reuse it)."""
    fd = os.open(path, flags, 0o666)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: `clean_staging` will then leave it alone
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
    finally:
        os.close(fd)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file's content: whoever reads it, whenever the power fails, sees all of the old or all of the new.

    Raises:
        RunError: It cannot be written (disk full, no permission, no such folder); the old file is unchanged.
    """
    staging = _staging_name(path)
    with _explained(path):
        try:
            with _claimed(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
                _write(fd, data)
                _sync(fd)
                _rename(staging, path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                staging.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text, whatever the locale; line ends stay as they are."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: object) -> None:
    """`write_bytes` of plain data as indented JSON.

    Raises:
        RunError: It cannot be written, or holds NaN or infinity, which JSON does not have.
    """
    try:
        text = json.dumps(data, indent=2, allow_nan=False)
    except ValueError as error:
        raise RunError(f"cannot write {path}: {error}; store such a number as text or null") from error
    write_text(path, text + "\n")


def _read(path: Path) -> bytes:
    with _explained(path, "read"):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{path} does not exist; check the path") from None
        except IsADirectoryError:
            raise UsageError(f"{path} is a folder, not a file; name a file in it") from None


def read_json(path: Path) -> dict[str, Any]:  # Any: JSON values
    """Read a JSON object.

    Raises:
        UsageError: There is no such file.
        RunError: It is not JSON in UTF-8 (torn, zeroed), or not an object.
    """
    try:
        data = json.loads(_read(path).decode())
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not readable JSON ({error}); restore it or remove it") from error
    if not isinstance(data, dict):
        raise RunError(f"{path} holds a JSON {type(data).__name__}, not an object; restore it or remove it")
    return data


def append_line(path: Path, text: str) -> None:
    """Add one line to a file such as `metrics.jsonl`, making the file when it is missing.

    A line that a killed writer left torn is cut off first. Not flushed to the disk: a power cut may take the last
    lines, a killed process takes none.

    Raises:
        UsageError: The text has a line break.
        RunError: It cannot be written; the earlier lines are unchanged.
    """
    if "\n" in text:
        raise UsageError(f"a line for {path} holds a line break: {text!r}; append its lines one by one")
    with _explained(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            end = _end_of_lines(fd)
            os.ftruncate(fd, end)
            os.lseek(fd, end, os.SEEK_SET)
            try:
                _write(fd, text.encode() + b"\n")
            except BaseException:
                os.ftruncate(fd, end)
                raise
        finally:
            os.close(fd)


def _end_of_lines(fd: int) -> int:
    """Offset in bytes just after the last newline, 0 when there is none."""
    end = os.lseek(fd, 0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_lines(path: Path) -> list[str]:
    """The whole lines of a file, without their ends; a torn last line (no newline) does not count.

    Raises:
        UsageError: There is no such file.
        RunError: A whole line is not UTF-8.
    """
    data = _read(path)
    try:
        return data[: data.rfind(b"\n") + 1].decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not UTF-8 text ({error}); restore it or remove it") from error


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal digits.

    Raises:
        RunError: It cannot be read.
    """
    with _explained(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where missing, so that they survive a power cut.

    Raises:
        RunError: It cannot be made, or a file has its name.
    """
    with _explained(path):
        for folder in reversed([path, *path.parents]):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                _sync_folder(folder.parent)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes `folder` in one step when the block ends well, and vanishes otherwise.

    Args:
        folder: Final name, in a folder that exists. What the block writes may be nested and need not be flushed.

    Yields:
        The staged folder, beside `folder`.

    Raises:
        UsageError: `folder` exists, or the block wrote a manifest of its own.
        RunError: The disk is full, permission is denied: then nothing is left behind.
    """
    staging = _staging_name(folder)
    with _explained(folder):
        _refuse_existing(folder)
        try:
            staging.mkdir()
            with _claimed(staging, os.O_RDONLY | os.O_DIRECTORY):
                yield staging
                _seal(staging)
                _refuse_existing(folder)
                _rename(staging, folder)
            _sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)  # the first error is the one to tell
            raise


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise UsageError(f"{folder} exists and is never overwritten; choose another name or remove it")


def _contents(folder: Path) -> dict[str, Path]:
    """Relative name -> path of every file in a folder, at any depth."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    for path in found.values():
        if path.is_symlink():
            raise RunError(f"{path} is a link; a sealed folder holds its files itself, so copy the file there")
    return {name: path for name, path in found.items() if not path.is_dir()}


def _seal(folder: Path) -> None:
    """Flush everything in a folder, then write its manifest."""
    entries = {}
    for name, path in _contents(folder).items():
        if name == MANIFEST:
            raise UsageError(f"{path} is the name of the manifest itself; give that file another name")
        with path.open("rb") as file:
            _sync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            entries[name] = {"size": file.tell(), "sha256": digest}
    for path in folder.rglob("*"):
        if path.is_dir():
            _sync_folder(path)
    write_json(folder / MANIFEST, {"format_version": MANIFEST_VERSION, "files": entries})


def verify(folder: Path, *, hashes: bool = True) -> None:
    """Check a sealed folder against its manifest.

    Args:
        folder: What `staged` made.
        hashes: Whether contents are read and compared; without, only names and sizes (cheap).

    Raises:
        UsageError: There is no such folder, or it was sealed by a newer version.
        RunError: It is broken; the first wrong file is named (missing, unlisted, of another size, of another content).
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not there; check the path")
    contents = _contents(folder)
    manifest = contents.pop(MANIFEST, None)
    if manifest is None:
        raise RunError(f"{folder} is broken: {MANIFEST} is missing, so its writing was never finished")
    entries = _manifest_entries(manifest)
    for name, (size, digest) in entries.items():
        path = contents.pop(name, None)
        if path is None:
            raise RunError(f"{folder} is broken: {name} is missing")
        if path.stat().st_size != size:
            raise RunError(f"{folder} is broken: {name} has {path.stat().st_size} bytes, its manifest says {size}")
        if hashes and sha256(path) != digest:
            raise RunError(f"{folder} is broken: the content of {name} has changed (its SHA-256 differs)")
    for name in contents:
        raise RunError(f"{folder} is broken: {name} is not in its manifest")


def _manifest_entries(path: Path) -> dict[str, tuple[int, str]]:
    """Name -> (size in bytes, SHA-256)."""
    data = read_json(path)
    check_version(data, path=path, newest=MANIFEST_VERSION)
    try:
        return {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in data["files"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RunError(f"{path} is broken: it does not list sizes and hashes of files") from None


def check_version(data: Mapping[str, Any], *, path: Path, newest: int) -> int:
    """The `format_version` of a file's data, 1 <= version <= newest.

    Raises:
        UsageError: It was written by a newer suffuse.
        RunError: There is no version, or it is not a positive whole number.
    """
    version = data.get("format_version")
    if type(version) is not int or version < 1:
        raise RunError(f"{path} has format_version {version!r}, not a positive whole number; restore it or remove it")
    if version > newest:
        raise UsageError(
            f"{path} has format_version {version}, written by a newer suffuse; this one reads up to {newest}; update it"
        )
    return version


def discard(folder: Path) -> None:
    """Remove a folder; it loses its name first, so that one whose removal is cut short is never taken for whole.

    Raises:
        RunError: It cannot be removed.
    """
    staging = _staging_name(folder)
    with _explained(folder, "remove"):
        _rename(folder, staging)
        shutil.rmtree(staging)


def clean_staging(parent: Path) -> tuple[Path, ...]:
    """Remove what killed writers left in a folder; what a living writer is still staging stays.

    Returns:
        What was removed.

    Raises:
        RunError: A leftover cannot be removed.
    """
    with _explained(parent, "clean"):
        found = sorted(path for path in parent.iterdir() if _STAGING.fullmatch(path.name))
        return tuple(path for path in found if _removed(path))


def _removed(leftover: Path) -> bool:
    """Remove a staged file or folder unless a living writer holds its lock."""
    is_folder = leftover.is_dir()
    fd = os.open(leftover, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or a file system without locks, where nobody can tell
            return False
        if is_folder:
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
        return True
    finally:
        os.close(fd)
