"""Which parts do not go together, found by asking the checks themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.process import EDM, VP, Flow, Identity, LogSigma, PathPart, TrigonometricPath, V
from suffuse.process.compose import check_process
from suffuse.sampling import Uniform
from suffuse.training.joints import JOINTS

__all__ = ["conflicts"]

_PATHS: dict[str, PathPart] = {
    "vp": VP(),
    "vp table": VP(steps=1000),
    "vp zero terminal SNR": VP(steps=1000, zero_terminal_snr=True),
    "edm": EDM(),
    "flow": Flow(),
    "trigonometric": TrigonometricPath(),
}


def conflicts() -> list[tuple[str, str, str]]:
    """(path, part, reason) for every part that, at its defaults, is refused on a path."""
    rows = []
    for (name, path), joint in itertools.product(
        _PATHS.items(), ("prediction", "time", "noise levels", "grid", "solver")
    ):
        for part in _defaults(joint):
            try:
                _check(path, part)
            except UsageError as error:
                rows.append((name, f"{joint} {part.dump()['kind']}", str(error)))
    return rows


def _defaults(joint: str) -> Iterator[Part]:
    for part in JOINTS[joint].parts.values():
        if all(not field.is_required() for field in part.model_fields.values()):
            yield part()


def _check(path: PathPart, part: Part) -> None:
    """Put one part on a path among others that go with anything."""
    plain = {"time": LogSigma() if path.told_scale is None else Identity(), "prediction": V()}
    joint = next(name for name, joint in JOINTS.items() if type(part) in joint.parts.values())
    if joint == "grid":
        part.times(path)  # type: ignore[attr-defined]  # a grid
    elif joint == "solver":
        part.init(torch.zeros(1), Uniform(steps=5).times(path), path)  # type: ignore[attr-defined]  # a solver
    else:
        chosen = plain | {joint.replace(" ", "_"): part}
        check_process(path, **chosen)  # type: ignore[arg-type]  # parts of their joints
