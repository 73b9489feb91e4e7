"""Sampling settings in a model's folder that has no recipe: how a converted model is sampled when nothing is said."""

from __future__ import annotations

from pathlib import Path

from suffuse.base import files
from suffuse.base.errors import RunError
from suffuse.base.part import parse
from suffuse.training.settings import SamplingSettings

__all__ = ["SAMPLING_FILE", "read_sampling", "save_sampling"]

SAMPLING_FILE = "sampling.json"
_VERSION = 1


def save_sampling(folder: Path, sampling: SamplingSettings) -> None:
    """Write them into a model's folder.

    Raises:
        RunError: They cannot be written.
    """
    files.write_json(folder / SAMPLING_FILE, {"format_version": _VERSION, "sampling": sampling.dump()})


def read_sampling(folder: Path) -> SamplingSettings:
    """Those of a model's folder; the defaults where it has none.

    Raises:
        UsageError: They are of a newer version, or name parts that do not exist.
        RunError: The file is damaged.
    """
    path = folder / SAMPLING_FILE
    if not path.is_file():
        return SamplingSettings()
    data = files.read_json(path)
    files.check_version(data, path=path, newest=_VERSION)
    if "sampling" not in data:
        raise RunError(f"{path} holds no sampling settings; take another copy of it, or remove it for the defaults")
    sampling: SamplingSettings = parse(SamplingSettings, data["sampling"], owner=str(path))
    return sampling
