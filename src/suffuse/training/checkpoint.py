"""Checkpoints: nested training state to a sealed folder and back, bit for bit; tensors in safetensors, facts in JSON.

`root/step-00001234/` holds one safetensors file a top-level key of the state (`model.safetensors`, ...), `state.json`
with everything else and the places of the tensors, and the manifest. Nothing is ever unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError
from suffuse.base.weights import read_safetensors, save_safetensors

__all__ = [
    "CheckpointState",
    "Found",
    "find_latest",
    "latest",
    "load_checkpoint",
    "save_checkpoint",
]

# Any: a tensor, int, float, str, bool or None, or a list, tuple or mapping of such, at any depth.
CheckpointState: TypeAlias = Mapping[str, Any]

STATE_FILE = "state.json"
STATE_VERSION = 1
_STEP = re.compile(r"step-(\d{8,})")
_GROUP = re.compile(r"\w[\w.-]*", re.ASCII)


# Nested state: every tensor is replaced by the place where it is stored. JSON lacks tuples, NaN and keys that are no
# text (optimisers number their states): these become an object of one key that starts with "$".


def _split(value: object, place: tuple[str, ...], groups: dict[str, dict[str, Tensor]]) -> object:
    """The JSON form of a value; its tensors are added to `groups` (group -> name -> tensor)."""
    if isinstance(value, Tensor):
        group, name = place[0], "/".join(place[1:]) or place[0]
        if name in groups.setdefault(group, {}):
            raise UsageError(f"the state has two tensors named {'/'.join(place)!r}; rename one of their keys")
        groups[group][name] = value
        return {"$tensor": [group, name]}
    if isinstance(value, Mapping):
        items = [(key, _split(item, (*place, str(key)), groups)) for key, item in value.items()]
        for key in value:
            if type(key) not in (str, int):
                raise UsageError(
                    f"state key {key!r} in {'/'.join(place)!r} is neither text nor a whole number; rename it"
                )
        plain = all(type(key) is str and not key.startswith("$") for key in value)
        return dict(items) if plain else {"$dict": items}
    if type(value) is list or type(value) is tuple:
        parts = [_split(item, (*place, str(i)), groups) for i, item in enumerate(value)]
        return parts if type(value) is list else {"$tuple": parts}
    if type(value) is float and not abs(value) < float("inf"):
        return {"$float": str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise UsageError(
        f"state value {'/'.join(place)!r} has type {type(value).__name__}; make it a tensor, a number, text or a list"
    )


def _join(value: Any, groups: Mapping[str, Mapping[str, Tensor]]) -> Any:  # Any: JSON values in, state values out
    """The inverse of `_split`."""
    if isinstance(value, list):
        return [_join(item, groups) for item in value]
    if not isinstance(value, dict):
        return value
    match next(iter(value.items()), None):
        case ("$tensor", (group, name)):
            return groups[group][name]
        case ("$dict", items):
            return {key: _join(item, groups) for key, item in items}
        case ("$tuple", parts):
            return tuple(_join(item, groups) for item in parts)
        case ("$float", text):
            return float(text)
    return {key: _join(item, groups) for key, item in value.items()}


# Folders


@dataclass(frozen=True)
class Found:
    """What `find_latest` saw.

    Attributes:
        path: The newest whole checkpoint; None when there is none.
        skipped: Broken ones that are newer, newest first, each with the reason.
    """

    path: Path | None
    skipped: tuple[tuple[Path, str], ...] = ()


def save_checkpoint(root: Path, step: int, state: CheckpointState, *, keep: int = 2) -> Path:
    """Write a checkpoint; only when it is sealed are older ones removed.

    Args:
        root: Folder of all checkpoints of a run; made when missing. One process at a time may write to it.
        step: Training step, from 0; orders the checkpoints.
        state: Nested state. A top-level key names a file, so it is letters, digits, `_`, `-` and `.`.
        keep: How many whole checkpoints stay, this one included; later steps than this one are not touched.

    Returns:
        The sealed folder.

    Raises:
        UsageError: A value cannot be stored, a whole checkpoint of this step exists, step < 0 or keep < 1.
        RunError: The disk is full, permission is denied; the earlier checkpoints are intact.
    """
    if step < 0 or keep < 1:
        raise UsageError(f"step is {step} and keep is {keep}; a checkpoint needs step >= 0 and keep >= 1")
    groups: dict[str, dict[str, Tensor]] = {}
    tree = _split(dict(state), (), groups)
    for group in groups:
        if not _GROUP.fullmatch(group):
            raise UsageError(f"state key {group!r} cannot name a file; use letters, digits, '_', '-' and '.'")
    folder = root / f"step-{step:08d}"
    files.make_folder(root)
    files.clean_staging(root)
    if folder.is_dir() and _fault(folder) is not None:
        files.discard(folder)  # a broken one of the same step: this save replaces it
    with files.staged(folder) as staging:
        for group, tensors in groups.items():
            save_safetensors(staging / f"{group}.safetensors", tensors)
        files.write_json(staging / STATE_FILE, {"format_version": STATE_VERSION, "step": step, "state": tree})
    _prune((older for at, older in _steps(root) if at < step), keep - 1)
    return folder


def _prune(older: Iterable[Path], keep: int) -> None:
    """Remove all but the `keep` first of those that look whole (names and sizes: hashing all at each save is slow)."""
    for folder in older:
        if keep and _fault(folder, hashes=False) is None:
            keep -= 1
        else:
            files.discard(folder)


def _steps(root: Path) -> list[tuple[int, Path]]:
    """Step and folder of all checkpoints, newest first; by number, as clocks and names may mislead."""
    if not root.is_dir():
        return []
    named = ((_STEP.fullmatch(path.name), path) for path in root.iterdir())
    return sorted(((int(match[1]), path) for match, path in named if match and path.is_dir()), reverse=True)


def _fault(folder: Path, *, hashes: bool = True) -> str | None:
    """Why a checkpoint is broken; None when it is whole."""
    try:
        files.verify(folder, hashes=hashes)
    except RunError as error:
        return str(error)
    return None


def find_latest(root: Path) -> Found:
    """The newest whole checkpoint, and the newer ones that are broken; every byte is checked.

    Raises:
        UsageError: The newest was written by a newer version of this package.
    """
    skipped: list[tuple[Path, str]] = []
    for _, folder in _steps(root):
        fault = _fault(folder)
        if fault is None:
            return Found(folder, tuple(skipped))
        skipped.append((folder, fault))
    return Found(None, tuple(skipped))


def latest(root: Path) -> Path | None:
    """The newest whole checkpoint; None when there is none."""
    return find_latest(root).path


def load_checkpoint(folder: Path) -> dict[str, Any]:  # Any: see CheckpointState
    """Read the state back, tensors on the CPU: every value and bit as it was saved (any mapping as a dict).

    Raises:
        UsageError: There is no such checkpoint, or it was written by a newer version.
        RunError: It is broken; the file is named.
    """
    files.verify(folder)
    path = folder / STATE_FILE
    if not path.is_file():
        raise RunError(f"{folder} is no checkpoint: {STATE_FILE} is missing; choose a folder like step-00001000")
    data = files.read_json(path)
    files.check_version(data, path=path, newest=STATE_VERSION)
    groups = {file.stem: read_safetensors(file) for file in sorted(folder.glob("*.safetensors"))}
    try:
        return dict(_join(data["state"], groups))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is broken: it does not fit the tensors beside it ({error})") from error
