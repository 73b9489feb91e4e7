"""Our solvers take the steps of diffusers' schedulers, where the two name the same method."""

from __future__ import annotations

from suffuse.claims.exact import SchedulerMatch
from suffuse.claims.protocol import Claim, Criterion, ExactArm, Experiment
from suffuse.interop.scheduler_pairs import PAIRS

__all__ = ["CLAIMS"]

# diffusers keeps its tables in float32, and some of its coefficients pass through a logarithm and back.
_CLOSE = 1e-4

MATCHES = Experiment(
    arms=tuple(
        ExactArm(name=name, exact=SchedulerMatch(pair=name), note=pair.settings) for name, pair in PAIRS.items()
    ),
    criteria=tuple(Criterion(value="difference", arm=name, at_most=_CLOSE) for name in PAIRS),
    columns=("difference",),
    packages=("diffusers",),
    notes=(
        "Both sides ask the same analytic network, on Stable Diffusion's table of betas unless a scheduler has another "
        "process; `difference` is the largest of any step, relative to the largest element of the sample. Some "
        "settings are not their defaults: `lower_final` is diffusers' falling order below 15 steps, and `published` "
        "its third order (see solvers-third-order).",
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="solvers-diffusers",
        technique="solvers",
        paper="song2021ddim",
        by="suffuse",
        statement="Step by step our solvers are diffusers' schedulers of the same name, to a ten-thousandth.",
        figure="1e-4, what float32 tables leave",
        experiments={"small": MATCHES},
    ),
)
