"""cCDM: inverse design in two resolutions, and how few large designs are enough for it."""

from __future__ import annotations

from suffuse.claims.measures import DesignsMet, MeasurePart
from suffuse.claims.protocol import Arm, Claim, Criterion, Experiment

__all__ = ["CLAIMS"]

_RECIPE = "trusses-ccdm"
_FEW, _MANY = 64, 2048
_MEASURES: tuple[MeasurePart, ...] = (DesignsMet(samples=300),)


def _large(count: int) -> Arm:
    return Arm(
        name=f"cascade, {count} large designs",
        recipe=f"{_RECIPE}:large",
        overrides=("conditioner.run={after}", f"data.count={count}", "steps=600"),
        after="small designs",
        equal=False,
        note="Its first stage has 8192 small designs.",
    )


def _alone(count: int) -> Arm:
    return Arm(
        name=f"one stage, {count} large designs",
        recipe=f"{_RECIPE}:large",
        overrides=("conditioner={kind: picture}", f"data.count={count}", "steps=600"),
        equal=False,
        note="The network of the second stage by itself.",
    )


_SMALL = Experiment(
    arms=(
        Arm(
            name="small designs",
            recipe=f"{_RECIPE}:small",
            overrides=("steps=1000",),
            equal=False,
            note="8x8 pixels, judged at that size.",
        ),
        _large(_FEW),
        _alone(_FEW),
        _large(_MANY),
        _alone(_MANY),
    ),
    shared=("checkpoint_every=250",),
    measures=_MEASURES,
    criteria=(
        Criterion(
            value="overlap",
            arm=f"cascade, {_FEW} large designs",
            over=f"one stage, {_FEW} large designs",
            at_least=1.05,
        ),
        Criterion(
            value="overlap", arm=f"cascade, {_MANY} large designs", over=f"cascade, {_FEW} large designs", at_least=1.0
        ),
        Criterion(
            value="overlap",
            arm=f"cascade, {_MANY} large designs",
            over=f"one stage, {_MANY} large designs",
            at_most=1.05,
        ),
        Criterion(value="overlap", arm=f"cascade, {_MANY} large designs", at_least=0.5),
    ),
    columns=("overlap", "volume_error", "seconds_per_image"),
    notes=(
        "`overlap` is the intersection over union with the design that the rule has for a load that was never trained "
        "on, `volume_error` the median error of the solid share of the area, of some 0.16.",
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
