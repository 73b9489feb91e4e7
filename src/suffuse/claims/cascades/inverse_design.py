"""cCDM: inverse design in two resolutions, and how few large designs are enough for it."""

from __future__ import annotations

from suffuse.claims.measures import DesignsMet, MeasurePart
from suffuse.claims.protocol import Arm, Claim, Criterion, Experiment

__all__ = ["CLAIMS"]

_RECIPE = "trusses-ccdm"
_FEW, _SOME, _MANY = 32, 128, 2048
_COUNTS = (_FEW, _SOME, _MANY)
_MEASURES: tuple[MeasurePart, ...] = (DesignsMet(samples=300),)


def _cascade(count: int) -> Arm:
    return Arm(
        name=f"cascade, {count} large designs",
        recipe=f"{_RECIPE}:large",
        overrides=("conditioner.run={after}", f"data.count={count}", "steps=400"),
        after="small designs",
        equal=False,
        note="600 steps of the first stage on 8192 small designs, 400 of the second.",
    )


def _alone(count: int) -> Arm:
    return Arm(
        name=f"one stage, {count} large designs",
        recipe=f"{_RECIPE}:large",
        overrides=("conditioner={kind: picture}", f"data.count={count}", "steps=1000", "network.channels=32"),
        equal=False,
        note="As many steps and weights (1.1 M) as both stages (0.7 and 0.3 M).",
    )


def _better(count: int, **bound: float) -> Criterion:
    return Criterion(
        value="overlap", arm=f"cascade, {count} large designs", over=f"one stage, {count} large designs", **bound
    )


_SMALL = Experiment(
    arms=(
        Arm(
            name="small designs",
            recipe=f"{_RECIPE}:small",
            overrides=("steps=600",),
            equal=False,
            note="8x8 pixels, judged at that size.",
        ),
        *(arm(count) for count in _COUNTS for arm in (_cascade, _alone)),
    ),
    shared=("checkpoint_every=250",),
    measures=_MEASURES,
    criteria=(
        _better(_SOME, at_least=1.1),
        _better(_MANY, at_most=1.1),
        Criterion(
            value="overlap", arm=f"cascade, {_FEW} large designs", over=f"cascade, {_MANY} large designs", at_most=0.95
        ),
        Criterion(value="overlap_true", arm=f"cascade, {_MANY} large designs", at_least=0.7),
    ),
    columns=("overlap", "overlap_true", "overlap_nearest", "volume_error", "seconds_per_image"),
    notes=(
        "`overlap` is the intersection over union with the design that the rule has for a load that was never trained "
        "on; `overlap_true` that of the second stage under true small designs, `overlap_nearest` of the first stage's "
        "designs enlarged by their nearest pixels. `volume_error` is the median error of the solid share of the area, "
        "which is some 0.16.",
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="ccdm-few",
        technique="ccdm",
        paper="habibi2024ccdm",
        by="paper",
        statement="Where large designs are few and small ones are cheap, a cascade makes better large designs than one "
        "model of them; with many the gap closes.",
        figure="better than a transferred GAN from some hundred large designs on (abstract)",
        experiments={"small": _SMALL},
    ),
)
