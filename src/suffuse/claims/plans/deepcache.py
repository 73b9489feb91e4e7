"""DeepCache: quality by refresh interval and branch, against fewer steps, and multiply-accumulates of its networks."""

from __future__ import annotations

from suffuse.acceleration import DeepCache
from suffuse.claims.exact import PlanMacs
from suffuse.claims.measures import PlanFidelity, Way
from suffuse.claims.plans.budgets import SAMPLES, SHARED, UNET
from suffuse.claims.protocol import Claim, Criterion, ExactArm, Experiment, Plot

__all__ = ["CLAIMS"]

_EVERY = (2, 3, 5, 10)
_WAYS = (
    *(Way(name=f"n{every}", plan=DeepCache(every=every)) for every in _EVERY),
    *(Way(name=f"b1n{every}", plan=DeepCache(every=every, branch=1)) for every in (2, 5)),
    *(Way(name=f"b2n{every}", plan=DeepCache(every=every, branch=2)) for every in (2, 5)),
    *(
        Way(name=f"power{every}", plan=DeepCache(every=every, schedule="published_power", centre=15, power=1.4))
        for every in (5, 10)
    ),
)
_MEASURE = PlanFidelity(ways=_WAYS, samples=SAMPLES)


def _nearer(way: str, than: str) -> Criterion:
    return Criterion(value=f"psnr_{way}", arm=UNET.name, over_value=f"psnr_{than}", at_least=1.0)


_NOTE = (
    "PSNR in decibels to the same samples of 50 DDIM steps without a plan; `fewer` is that of as many plain steps as "
    "cost the same multiply-accumulates (`share` of the full run)."
)
_QUALITY = Experiment(
    arms=(UNET,),
    shared=SHARED,
    measures=(_MEASURE,),
    criteria=(
        _nearer("n2", "n3"),
        _nearer("n3", "n5"),
        _nearer("n5", "n10"),
        _nearer("b1n5", "n5"),
        _nearer("b2n5", "b1n5"),
    ),
    columns=tuple(f"{value}_{way.name}" for way in _WAYS for value in ("share", "psnr")),
    notes=(_NOTE,),
)
_UNEVEN = Experiment(
    arms=(UNET,),
    shared=SHARED,
    measures=(_MEASURE,),
    criteria=(_nearer("power10", "n10"),),
    columns=("psnr_n5", "psnr_power5", "psnr_n10", "psnr_power10"),
    notes=(_NOTE,),
)
_FEWER = Experiment(
    arms=(UNET,),
    shared=SHARED,
    measures=(_MEASURE,),
    criteria=tuple(Criterion(value=f"lead_n{every}", arm=UNET.name, at_least=0.0) for every in _EVERY),
    columns=tuple(f"{value}_n{every}" for every in _EVERY for value in ("share", "psnr", "fewer", "lead")),
    plots=(
        Plot(
            name="lead",
            values=tuple(f"lead_{way.name}" for way in _WAYS),
            title="PSNR of DeepCache minus that of fewer steps at the same cost",
            ylabel="dB",
        ),
    ),
    notes=(_NOTE,),
)
_MACS = Experiment(
    arms=(
        ExactArm(
            name="SD 1.5, N = 5, as published",
            exact=PlanMacs(
                network="sd15",
                plan=DeepCache(every=5, schedule="published_power", centre=15, power=1.4, branch=1),
                steps=50,
            ),
            note="The paper's code runs the last two decoder blocks: our branch 1.",
        ),
        ExactArm(
            name="SD 1.5, N = 5, branch 0",
            exact=PlanMacs(
                network="sd15", plan=DeepCache(every=5, schedule="published_power", centre=15, power=1.4), steps=50
            ),
        ),
        *(
            ExactArm(
                name=f"LDM-4-G, N = {every}", exact=PlanMacs(network="ldm4", plan=DeepCache(every=every), steps=250)
            )
            for every in (2, 5, 10)
        ),
        ExactArm(name="SDXL, N = 3", exact=PlanMacs(network="sdxl", plan=DeepCache(every=3), steps=50)),
    ),
    criteria=(
        Criterion(value="ratio", arm="SD 1.5, N = 5, as published", at_least=2.3),
        Criterion(value="ratio", arm="LDM-4-G, N = 5", at_least=4.1),
        # 99.82 G and, at N = 10, 13.97 G (from memory), in which attention's own products were not counted.
        Criterion(value="full", arm="LDM-4-G, N = 5", at_least=99.82, at_most=1.05 * 99.82),
        Criterion(value="ratio", arm="LDM-4-G, N = 10", at_least=0.95 * 99.82 / 13.97, at_most=1.05 * 99.82 / 13.97),
    ),
    columns=("weights", "full", "ratio"),
    packages=("diffusers",),
    notes=(
        "Counted on the networks' shapes without weights (all seeds are the same computation), attention's products "
        "included, over a whole run; the "
        "autoencoder and the text encoder are no part of it. A ratio of multiply-accumulates bounds what can be saved, "
        "and is no measurement of time.",
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="deepcache-quality",
        technique="deepcache",
        paper="ma2024deepcache",
        by="paper",
        statement="The fewer refreshes and the shallower the branch, the further samples stray from the full run, "
        "step by step and not at once.",
        figure="CIFAR-10, 100 DDIM steps: FID 4.19 without, 4.35, 4.70, 5.73, 9.74 at N = 2, 3, 5, 10 (from memory)",
        experiments={"small": _QUALITY},
    ),
    Claim(
        key="deepcache-uneven",
        technique="deepcache",
        paper="ma2024deepcache",
        by="paper",
        statement="With many steps between refreshes, refreshes that are dense around a step beat even ones.",
        figure="helps at N of 10 and more (from memory); our criterion: PSNR at N = 10",
        experiments={"small": _UNEVEN},
    ),
    Claim(
        key="deepcache-fewer-steps",
        technique="deepcache",
        paper="ma2024deepcache",
        by="paper",
        statement="At equal compute it is at least as near to the full run as fewer steps are.",
        figure="comparable or marginally better than DDIM and PLMS at equal throughput",
        experiments={"small": _FEWER},
    ),
    Claim(
        key="deepcache-macs",
        technique="deepcache",
        paper="ma2024deepcache",
        by="paper",
        statement="It makes Stable Diffusion 1.5 2.3 times and latent diffusion on ImageNet 4.1 times as fast.",
        figure="2.3 times at 50 PLMS steps; 4.1 times at 250 DDIM steps, N = 5",
        experiments={"small": _MACS},
    ),
)
