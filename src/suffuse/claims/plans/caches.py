"""Successors on the same joint, all of them against fewer steps, and what combines."""

from __future__ import annotations

from suffuse.acceleration import DeepCache, FirstBlockCache, ResidualReuse, Taylor, TeaCache, TokenMerging
from suffuse.claims.measures import PlanFidelity, Way
from suffuse.claims.plans.budgets import DIT, SAMPLES, SHARED, UNET
from suffuse.claims.protocol import Claim, Criterion, Experiment, Plot
from suffuse.sampling import CFG, DPMSolverPP, Euler

__all__ = ["CLAIMS"]

_WAYS = (
    Way(name="residual2", plan=ResidualReuse(every=2)),
    Way(name="hold3", plan=Taylor(every=3, order=0)),
    Way(name="taylor3", plan=Taylor(every=3)),
    Way(name="taylor5", plan=Taylor(every=5)),
    Way(name="first_block05", plan=FirstBlockCache(threshold=0.05)),
    Way(name="first_block10", plan=FirstBlockCache(threshold=0.1)),
    Way(name="first_block20", plan=FirstBlockCache(threshold=0.2)),
    Way(name="teacache20", plan=TeaCache(threshold=0.2)),
    Way(name="merging50", plan=TokenMerging(ratio=0.5)),
)
_MEASURE = PlanFidelity(solver=Euler(variable="time"), steps=50, ways=_WAYS, samples=SAMPLES)
_NOTE = (
    "PSNR in decibels to the same samples of 50 Euler steps without a plan; `fewer` is that of as many plain steps as "
    "cost the same multiply-accumulates (`share` of the full run)."
)


def _nearer(way: str, than: str) -> Criterion:
    return Criterion(value=f"psnr_{way}", arm=DIT.name, over_value=f"psnr_{than}", at_least=1.0)


def _dearer(way: str, than: str) -> Criterion:
    return Criterion(value=f"share_{than}", arm=DIT.name, over_value=f"share_{way}", at_most=0.99)


_FORECAST = Experiment(
    arms=(DIT,),
    shared=SHARED,
    measures=(_MEASURE,),
    criteria=(_nearer("taylor3", "hold3"),),
    columns=("share_hold3", "psnr_hold3", "share_taylor3", "psnr_taylor3", "share_taylor5", "psnr_taylor5"),
    notes=(_NOTE,),
)
_THRESHOLDS = Experiment(
    arms=(DIT,),
    shared=SHARED,
    measures=(_MEASURE,),
    criteria=(
        _nearer("first_block05", "first_block10"),
        _nearer("first_block10", "first_block20"),
        # The price of being nearer: a threshold that never lets anything through trades nothing.
        _dearer("first_block05", "first_block10"),
        _dearer("first_block10", "first_block20"),
    ),
    columns=tuple(f"{value}_first_block{name}" for name in ("05", "10", "20") for value in ("share", "psnr")),
    notes=(_NOTE,),
)
_FEWER = Experiment(
    arms=(DIT,),
    shared=SHARED,
    measures=(_MEASURE,),
    criteria=(
        *(Criterion(value=f"lead_{way.name}", arm=DIT.name, at_most=0.0) for way in _WAYS),
        # What never reuses anything says nothing.
        *(Criterion(value=f"share_{way.name}", arm=DIT.name, at_most=0.95) for way in _WAYS),
    ),
    columns=tuple(f"{value}_{way.name}" for way in _WAYS for value in ("share", "psnr", "fewer")),
    plots=(
        Plot(
            name="lead",
            values=tuple(f"lead_{way.name}" for way in _WAYS),
            title="PSNR of caches minus that of fewer steps at the same cost",
            ylabel="dB",
        ),
    ),
    notes=(_NOTE,),
)
_FAST, _LATE = DPMSolverPP(), CFG(scale=2.0, above=0.2, up_to=5.0)
_COMBINED_WAYS = (
    Way(name="solver", solver=_FAST, steps=20),
    Way(name="cache", plan=DeepCache(every=2)),
    Way(name="interval", guidance=_LATE),
    Way(name="solver_cache", solver=_FAST, steps=20, plan=DeepCache(every=2)),
    Way(name="solver_interval", solver=_FAST, steps=20, guidance=_LATE),
    Way(name="cache_interval", plan=DeepCache(every=2), guidance=_LATE),
    Way(name="all", solver=_FAST, steps=20, plan=DeepCache(every=2), guidance=_LATE),
)
_COMBINED = Experiment(
    arms=(UNET,),
    shared=SHARED,
    measures=(PlanFidelity(guidance=CFG(scale=2.0), ways=_COMBINED_WAYS, samples=SAMPLES),),
    criteria=(
        *(Criterion(value=f"share_{name}", arm=UNET.name, at_most=0.9) for name in ("solver", "cache", "interval")),
        Criterion(value="share_all", arm=UNET.name, at_most=0.2),
        Criterion(value="distance_all", arm=UNET.name, over_value="distance_full", at_most=1.1),
        Criterion(value="distance_all", arm=UNET.name, over_value="distance_fewer_all", at_most=1.0),
    ),
    columns=(
        "distance_full",
        *(f"{value}_{way.name}" for way in _COMBINED_WAYS for value in ("share", "distance", "distance_fewer")),
    ),
    notes=(
        "The full run is 50 DDIM steps under guidance of scale 2 everywhere. Distances to the data in the features of "
        f"a network trained on these, from {SAMPLES} samples; `fewer` is the full run's way in as many steps as cost "
        "the same.",
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="caches-forecast",
        technique="caches",
        paper="liu2025taylorseer",
        by="paper",
        statement="Features that are extrapolated from the last refreshes stay nearer to the full run than features "
        "that are held.",
        figure="FID lower by 3.41 than the best before at 4.53 times the speed, DiT",
        experiments={"small": _FORECAST},
    ),
    Claim(
        key="caches-thresholds",
        technique="caches",
        paper="liu2025teacache",
        by="suffuse",
        statement="A threshold on the first block's change trades nearness for speed evenly.",
        figure="expected: PSNR falls with the threshold",
        experiments={"small": _THRESHOLDS},
    ),
    Claim(
        key="caches-fewer-steps",
        technique="caches",
        paper="liu2025taylorseer",
        by="suffuse",
        statement="On a small transformer no cache is nearer to the full run than fewer steps at the same cost.",
        figure="expected of small and smooth networks; the papers' are large",
        experiments={"small": _FEWER},
    ),
    Claim(
        key="caches-combined",
        technique="caches",
        paper="ma2024deepcache",
        by="suffuse",
        statement="A solver, a cache and guidance within an interval each save on their own: together they cost a "
        "fifth of the full run, lose a tenth of its distance at most, and beat fewer steps.",
        figure="expected: savings multiply",
        experiments={"small": _COMBINED},
    ),
)
