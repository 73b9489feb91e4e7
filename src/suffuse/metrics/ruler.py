"""The ruler: what a number was measured with. Numbers of different rulers never stand side by side unannounced."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from suffuse import __version__
from suffuse.base.errors import RunError, UsageError, unknown_name
from suffuse.base.part import Part, parse

__all__ = ["AXES", "Comparison", "Measurement", "Ruler", "Versions", "dumps", "loads", "side_by_side"]

FORMAT_VERSION = 1
AXES = ("solver", "grid", "nfe", "guidance", "plan")
"""What comparisons vary by default: how was sampled, never what was measured with."""


class Versions(Part):
    """Of what computes the number."""

    torch: str
    numpy: str
    suffuse: str

    @classmethod
    def here(cls) -> Self:
        """Those of this process."""
        return cls(torch=torch.__version__, numpy=np.__version__, suffuse=__version__)


class Ruler(Part):
    """All that a number depends on beside the model. None means that a field does not apply, as in real data's floor.

    Attributes:
        weights: "raw", or the name of the EMA.
        solver: The solver, with its settings.
        grid: The grid, with its settings.
        nfe: Network evaluations a sample, counted.
        guidance: The guidance, with its scale.
        plan: What of the network was left out or reused, with its settings.
        conditions: What every sample was told, by name: samples that start from an image's small copy are no rivals of
            those that start from its class.
        precision: Of the network while sampling.
        samples: How many samples were measured.
        resize: What was done to the images before the features saw them.
        features: Name of the feature space.
        features_hash: Of its weights.
        data: Name of the reference data.
        reference: Fingerprint of the reference data.
        reference_count: How many of them.
        seed: Of the sampling.
        versions: Of the software.
    """

    weights: str | None = None
    solver: str | None = None
    grid: str | None = None
    nfe: float | None = Field(default=None, ge=0)
    guidance: str | None = None
    plan: str = "none"
    conditions: str | None = None
    precision: str | None = None
    samples: int = Field(ge=1)
    resize: str = "none"
    features: str | None = None
    features_hash: str | None = None
    data: str
    reference: str
    reference_count: int = Field(ge=1)
    seed: int | None = None
    versions: Versions = Field(default_factory=Versions.here)

    def differences(self, other: Ruler) -> tuple[str, ...]:
        """Names of the fields that differ, in their order; empty for equal rulers."""
        return tuple(name for name in Ruler.model_fields if getattr(self, name) != getattr(other, name))


class Measurement(Part):
    """A number with its ruler.

    Attributes:
        name: What was measured, such as "fd_digits_classes".
        value: The number.
        interval: Lower and upper end of its uncertainty; None when it was not estimated.
        ruler: What it was measured with.
    """

    name: str
    value: float = Field(allow_inf_nan=False)
    interval: tuple[float, float] | None = None
    ruler: Ruler

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.interval is not None and not self.interval[0] <= self.value <= self.interval[1]:
            raise ValueError(f"interval {self.interval} does not hold the value {self.value}")
        return self


@dataclass(frozen=True)
class Comparison:
    """Measurements that may be shown together.

    Attributes:
        measurements: In the order given.
        varying: Axes of the rulers that do vary, all declared.
        note: What else differs, to be shown with the numbers; None when nothing does.
    """

    measurements: tuple[Measurement, ...]
    varying: tuple[str, ...]
    note: str | None = None


def _shown(rulers: Sequence[Ruler], field: str) -> str:
    values = dict.fromkeys(str(getattr(ruler, field)) for ruler in rulers)
    return f"{field} ({' | '.join(values)})"


def side_by_side(
    measurements: Iterable[Measurement],
    *,
    allow: tuple[str, ...] = AXES,
    mixed: Literal["refuse", "annotate"] = "refuse",
) -> Comparison:
    """Put numbers side by side if their rulers agree; those of one name are compared with each other.

    Args:
        measurements: At least one.
        allow: Fields of the ruler that the comparison is about, which may differ.
        mixed: What to do when other fields differ: refuse, or return them with a note that must be shown.

    Raises:
        UsageError: Rulers differ in other fields and `mixed` is "refuse"; `allow` names no field; nothing to compare.
    """
    rows = tuple(measurements)
    if not rows:
        raise UsageError("there are no measurements to put side by side; measure at least one model")
    for name in allow:
        if name not in Ruler.model_fields:
            raise unknown_name("field of a ruler", name, Ruler.model_fields)
    groups: dict[str, list[Ruler]] = {}
    for row in rows:
        groups.setdefault(row.name, []).append(row.ruler)
    varying: dict[str, None] = {}
    notes = []
    for name, rulers in groups.items():
        found = {field for ruler in rulers[1:] for field in rulers[0].differences(ruler)}
        differing = [field for field in Ruler.model_fields if field in found]
        varying.update(dict.fromkeys(field for field in differing if field in allow))
        other = [_shown(rulers, field) for field in differing if field not in allow]
        if other:
            notes.append(f"different rulers for {name}: {', '.join(other)}")
    if notes and mixed == "refuse":
        raise UsageError(f"{'; '.join(notes)}; measure them again with one ruler, or ask for them to be annotated")
    return Comparison(rows, tuple(varying), "; ".join(notes) or None)


def dumps(measurements: Iterable[Measurement]) -> str:
    """Measurements as JSON text."""
    data = {"format_version": FORMAT_VERSION, "measurements": [item.dump() for item in measurements]}
    return json.dumps(data, indent=2, allow_nan=False)


def loads(text: str, source: str = "the measurements") -> tuple[Measurement, ...]:
    """Read what `dumps` wrote.

    Args:
        text: JSON.
        source: What to call it in messages, for example the file's name.

    Raises:
        RunError: It is not such JSON.
        UsageError: It was written by a newer version, or a measurement has wrong fields.
    """
    try:
        data = json.loads(text)
        version, items = data["format_version"], list(data["measurements"])
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{source} is not a JSON object of measurements; evaluate again to write it anew") from None
    if version != FORMAT_VERSION:
        raise UsageError(f"{source} has format_version {version!r}; this version of suffuse reads {FORMAT_VERSION}")
    return tuple(parse(Measurement, item, owner=f"{source}: measurement {i}") for i, item in enumerate(items))
