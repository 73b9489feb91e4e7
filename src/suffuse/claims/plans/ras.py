"""Region-adaptive sampling: against random tokens, without its parts, and its multiply-accumulates."""

from __future__ import annotations

from suffuse.acceleration import RegionAdaptive
from suffuse.claims.exact import PlanMacs
from suffuse.claims.measures import PlanFidelity, Way
from suffuse.claims.plans.budgets import DIT, SAMPLES, SHARED
from suffuse.claims.protocol import Claim, Criterion, ExactArm, Experiment
from suffuse.sampling import Euler

__all__ = ["CLAIMS"]

_WAYS = (
    Way(name="ours", plan=RegionAdaptive()),
    Way(name="ours_high0", plan=RegionAdaptive(high=0.0)),
    Way(name="published", plan=RegionAdaptive(published=True, high=0.3, starvation=1.0)),
    Way(name="random", plan=RegionAdaptive(score="random", starvation=0.0)),
    Way(name="alone", plan=RegionAdaptive(recover=False)),
    Way(name="no_reset", plan=RegionAdaptive(reset_every=None)),
    Way(name="quarter", plan=RegionAdaptive(ratio=0.25)),
)


def _nearer(than: str) -> Criterion:
    return Criterion(value="psnr_ours", arm=DIT.name, over_value=f"psnr_{than}", at_least=1.0)


_QUALITY = Experiment(
    arms=(DIT,),
    shared=SHARED,
    measures=(PlanFidelity(solver=Euler(variable="time"), steps=28, ways=_WAYS, samples=SAMPLES),),
    criteria=(
        _nearer("random"),
        _nearer("alone"),
        _nearer("no_reset"),
        Criterion(value="lead_ours", arm=DIT.name, at_least=0.0),
    ),
    columns=tuple(f"{value}_{way.name}" for way in _WAYS for value in ("share", "psnr", "lead")),
    notes=(
        "Half of the tokens, 28 Euler steps, PSNR in decibels to all tokens at all of them; `lead` is over as many "
        "plain steps as cost the same. `published` counts drops as the source's code does, with its settings for "
        "SD 3; `ours_high0` drops the calmest tokens instead of the liveliest; `alone` attends to running tokens only.",
    ),
)
_MACS = Experiment(
    arms=tuple(
        ExactArm(
            name=f"SD 3 medium, {share:.0%} of the tokens",
            exact=PlanMacs(network="sd3", plan=RegionAdaptive(ratio=share), steps=28),
        )
        for share in (0.5, 0.25, 0.125)
    ),
    criteria=(
        Criterion(value="ratio", arm="SD 3 medium, 50% of the tokens", at_least=1.625),
        Criterion(value="ratio", arm="SD 3 medium, 12% of the tokens", at_least=2.36),
    ),
    columns=("weights", "full", "ratio"),
    packages=("diffusers",),
    notes=(
        "Counted on the shape without weights (all seeds are the same computation), over 28 steps of which 6 run all "
        "tokens; text tokens always run. The "
        "paper does not say at which share of tokens it is 2.36 times as fast.",
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="ras-quality",
        technique="ras",
        paper="liu2025ras",
        by="paper",
        statement="Tokens chosen by the deviation of their noise stay nearer to the full run than random ones, keys "
        "and values of the others and error resets each help, and it beats fewer steps.",
        figure="Pareto-better FID than fewer steps; user study at parity (tables not verified)",
        experiments={"small": _QUALITY},
    ),
    Claim(
        key="ras-macs",
        technique="ras",
        paper="liu2025ras",
        by="paper",
        statement="It makes Stable Diffusion 3 up to 2.36 times as fast, 1.6 times with half of the tokens.",
        figure="2.36 times; 1.625 times at parity in a user study",
        experiments={"small": _MACS},
    ),
)
