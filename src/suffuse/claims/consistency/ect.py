"""ECT: consistency tuning from a denoiser, against consistency training from scratch."""

from __future__ import annotations

from suffuse.claims.consistency.budgets import DIGITS, RING, RING_JUDGED, jumps
from suffuse.claims.protocol import Arm, Claim, Criterion, Experiment

__all__ = ["CLAIMS"]

_INIT = "init.run={after}"
_NOTE = "Its denoiser's own training is not counted, as in the paper; with it the budgets are equal or larger."

_RING = Experiment(
    arms=(
        Arm(name="iCT", recipe="ring-ict"),
        Arm(name="denoiser", recipe="ring-edm"),
        Arm(name="ECT", recipe="ring-ect", overrides=(_INIT, "steps=750"), after="denoiser", equal=False, note=_NOTE),
        Arm(name="ECT, longer", recipe="ring-ect", overrides=(_INIT, "steps=3000"), after="denoiser", note=_NOTE),
    ),
    shared=RING,
    measures=RING_JUDGED,
    criteria=(
        Criterion(value="sliced_consistency@1", arm="ECT", over="iCT", at_most=1.0),
        Criterion(value="sliced_consistency@1", arm="ECT, longer", over="iCT", at_most=1.0),
    ),
    columns=("sliced_consistency@1", "sliced_consistency@2"),
)

_DIGITS = Experiment(
    arms=(
        Arm(name="iCT", recipe="digits-ict"),
        Arm(name="denoiser", recipe="digits-diffusion"),
        Arm(name="ECT", recipe="digits-ect", overrides=(_INIT, "steps=375"), after="denoiser", equal=False, note=_NOTE),
    ),
    shared=DIGITS,
    measures=jumps(1000, 1, 2),
    criteria=(
        Criterion(value="distance_consistency@1", arm="ECT", over="iCT", at_most=1.0),
        Criterion(value="distance_consistency@2", arm="ECT", over="iCT", at_most=1.0),
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="ect-tuning",
        technique="consistency",
        paper="geng2024ect",
        by="paper",
        statement="From a diffusion model a quarter of the steps reaches the quality of training from scratch.",
        figure="two-step FID 2.73 on CIFAR-10 after an hour on one GPU; iCT 2.46 at 32 times the batches",
        experiments={"small": _RING},
    ),
    Claim(
        key="ect-tuning-images",
        technique="consistency",
        paper="geng2024ect",
        by="paper",
        statement="The same on images.",
        figure="as above",
        experiments={"small": _DIGITS},
    ),
)
