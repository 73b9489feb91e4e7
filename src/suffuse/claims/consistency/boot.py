"""BOOT: distillation without data, held against the teacher's own map."""

from __future__ import annotations

from suffuse.claims.consistency.budgets import RING
from suffuse.claims.measures import PointDistances, TeacherMapError
from suffuse.claims.protocol import Arm, Claim, Criterion, Experiment
from suffuse.sampling import Uniform

__all__ = ["CLAIMS"]

_FROM = ("init.run={after}", "objective.teacher.run={after}")
_VALUE = "sliced_consistency@1"

_RING = Experiment(
    arms=(
        Arm(name="teacher", recipe="ring-v", note="One jump of it is its estimate of data at pure noise: their mean."),
        Arm(name="BOOT", recipe="ring-boot", overrides=_FROM, after="teacher"),
        Arm(
            name="BOOT, second order",
            recipe="ring-boot",
            overrides=(*_FROM, "objective.teacher.solver=heun"),
            after="teacher",
        ),
        Arm(
            name="BOOT without boundary",
            recipe="ring-boot",
            overrides=(*_FROM, "objective.boundary=0"),
            after="teacher",
        ),
    ),
    shared=RING,
    measures=(PointDistances(grid=Uniform(steps=1), nfe=(1,)), TeacherMapError()),
    criteria=(
        Criterion(value=_VALUE, arm="BOOT", over="teacher", at_most=0.3),
        Criterion(value="teacher_error", arm="BOOT", over="teacher", at_most=0.3),
        Criterion(value=_VALUE, arm="BOOT without boundary", over="BOOT", at_least=2.0),
    ),
    columns=(_VALUE, "teacher_error", "teacher_spread"),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="boot-data-free",
        technique="consistency",
        paper="gu2023boot",
        by="paper",
        statement="Without data a student learns the teacher's map, far better than the teacher's own single step; the "
        "boundary at pure noise is needed.",
        figure="FID 9.0 on FFHQ-64 in one step against 7.6 of 50 DDIM steps (from memory); our criteria: 0.3, twice",
        experiments={"small": _RING},
    ),
)
