"""Consistency distillation: one jump against one solver step, and against training without a teacher."""

from __future__ import annotations

from suffuse.claims.consistency.budgets import RING, RING_JUDGED
from suffuse.claims.measures import MapError
from suffuse.claims.protocol import Arm, Claim, Criterion, Experiment

__all__ = ["CLAIMS"]

_TEACHER = "objective.teacher.run={after}"
_VALUE = "sliced_consistency@1"

_RING = Experiment(
    arms=(
        Arm(name="teacher", recipe="ring-edm", note="One jump of a denoiser is one Euler step: the data's mean."),
        Arm(name="CD, Heun", recipe="ring-cd", overrides=(_TEACHER,), after="teacher"),
        Arm(
            name="CD, Euler",
            recipe="ring-cd",
            overrides=(_TEACHER, "objective.teacher.solver=euler"),
            after="teacher",
        ),
        Arm(
            name="CT",
            recipe="ring-ct",
            overrides=("steps=6000",),
            equal=False,
            note="Twice the steps: as many evaluations as distillation by Heun takes.",
        ),
    ),
    shared=RING,
    measures=(*RING_JUDGED, MapError()),
    criteria=(
        Criterion(value=_VALUE, arm="CD, Heun", over="teacher", at_most=0.5),
        Criterion(value="map_error", arm="CD, Heun", over="teacher", at_most=0.5),
        Criterion(value="map_error", arm="CD, Heun", over="CD, Euler", at_most=1.0),
        Criterion(value="map_error", arm="CD, Heun", over="CT", at_most=1.0),
    ),
    columns=("map_error", "mean_error", _VALUE, "sliced_consistency@2"),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="cd-one-step",
        technique="consistency",
        paper="song2023consistency",
        by="paper",
        statement="A distilled map jumps where the teacher's trajectory ends, far nearer than one step of it; a "
        "second-order step of the teacher is better than a first-order one, and distilling better than training.",
        figure="FID 3.55 (CD) against 8.70 (CT) on CIFAR-10, one step",
        experiments={"small": _RING},
    ),
)
