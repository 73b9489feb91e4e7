"""Presets: ways of sampling that a search found, kept in a run's folder under a name and used by that name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suffuse.base import files
from suffuse.base.errors import RunError, unknown_name
from suffuse.base.part import parse
from suffuse.training.settings import SamplingSettings

__all__ = ["FOLDER", "Preset", "list_presets", "load_preset", "save_preset"]

FOLDER = "presets"
_VERSION = 1


@dataclass(frozen=True)
class Preset:
    """A way of sampling, and how it was found.

    Attributes:
        name: Of the file.
        sampling: The way.
        found: What was searched, by what measure, and what it scored; for people.
    """

    name: str
    sampling: SamplingSettings
    found: dict[str, Any]  # Any: JSON values


def list_presets(run: Path) -> tuple[str, ...]:
    """Names of a run's presets."""
    return tuple(sorted(path.stem for path in (run / FOLDER).glob("*.json")))


def save_preset(run: Path, preset: Preset) -> Path:
    """Write a preset into a run's folder; one of that name is replaced. Returns the file."""
    files.make_folder(run / FOLDER)
    path = run / FOLDER / f"{preset.name}.json"
    files.write_json(path, {"format_version": _VERSION, "sampling": preset.sampling.dump(), "found": preset.found})
    return path


def load_preset(run: Path, name: str) -> Preset:
    """Read a preset of a run.

    Raises:
        UsageError: There is none of that name, or it is of a newer version.
        RunError: It is damaged.
    """
    names = list_presets(run)
    if name not in names:
        raise unknown_name("preset", name, names)
    path = run / FOLDER / f"{name}.json"
    data = files.read_json(path)
    files.check_version(data, path=path, newest=_VERSION)
    if "sampling" not in data:
        raise RunError(f"{path} holds no sampling settings; run `suffuse tune` again to write it anew")
    return Preset(name, parse(SamplingSettings, data["sampling"], owner=str(path)), dict(data.get("found", {})))
