"""Faster Diffusion: encoder against decoder, key steps, and what of its speed is multiply-accumulates."""

from __future__ import annotations

from suffuse.acceleration import EncoderReuse, HeldBlocks
from suffuse.acceleration.encoder_reuse import PUBLISHED_STEPS
from suffuse.claims.exact import PlanMacs
from suffuse.claims.measures import FeatureDrift, PlanFidelity, Way
from suffuse.claims.plans.budgets import SAMPLES, SHARED, UNET
from suffuse.claims.protocol import Claim, Criterion, ExactArm, Experiment

__all__ = ["CLAIMS"]

_WAYS = (
    Way(name="published", plan=EncoderReuse()),
    Way(name="even9", plan=EncoderReuse(every=6)),
    Way(name="even2", plan=EncoderReuse(every=2)),
    Way(name="decoder", plan=HeldBlocks(blocks=("up.2.1",), refresh=PUBLISHED_STEPS)),
)
_DRIFT = Experiment(
    arms=(UNET,),
    shared=SHARED,
    measures=(FeatureDrift(),),
    criteria=(Criterion(value="drift_encoder", arm=UNET.name, over_value="drift_decoder", at_most=1.0),),
    columns=("drift_encoder", "drift_decoder", "drift_deep"),
    notes=("Mean relative change of a block's value from one of 50 DDIM steps to the next.",),
)
_KEYS = Experiment(
    arms=(UNET,),
    shared=SHARED,
    measures=(PlanFidelity(ways=_WAYS, samples=SAMPLES),),
    criteria=(
        Criterion(value="psnr_published", arm=UNET.name, over_value="psnr_even9", at_least=1.0),
        Criterion(value="psnr_published", arm=UNET.name, over_value="psnr_decoder", at_least=1.0),
        Criterion(value="lead_published", arm=UNET.name, at_least=0.0),
    ),
    columns=tuple(f"{value}_{way.name}" for way in _WAYS for value in ("share", "psnr", "lead")),
    notes=(
        "PSNR in decibels to 50 DDIM steps without a plan. `decoder` keeps what the last decoder block gives at the "
        "same key steps, and runs nothing else between them. `lead` is over as many plain steps as cost the same.",
    ),
)
_MACS = Experiment(
    arms=tuple(
        ExactArm(
            name=f"SD 1.5{', decoders at once' if parallel else ''}",
            exact=PlanMacs(network="sd15", plan=EncoderReuse(parallel=parallel), steps=50),
        )
        for parallel in (False, True)
    ),
    criteria=(Criterion(value="ratio", arm="SD 1.5", at_least=1 / (1 - 0.41)),),
    columns=("weights", "full", "ratio"),
    packages=("diffusers",),
    notes=(
        "Counted on the shape without weights (all seeds are the same computation) over 50 steps with the published "
        "key steps. The decoder holds most of "
        "the work, so that leaving out 41 of 50 encoders saves a quarter of it. What the paper's 41 % are beyond that "
        "is time, which decoders in one batch save on a graphics processor that a single sample does not fill.",
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="faster-diffusion-drift",
        technique="faster-diffusion",
        paper="li2024fasterdiffusion",
        by="paper",
        statement="From step to step the encoder's features change less than the decoder's.",
        figure="shown by curves (from memory)",
        experiments={"small": _DRIFT},
    ),
    Claim(
        key="faster-diffusion-key-steps",
        technique="faster-diffusion",
        paper="li2024fasterdiffusion",
        by="paper",
        statement="Key steps that are dense at the start beat even ones, keeping the decoder instead is worse, and "
        "quality is kept.",
        figure="COCO FID 21.75 to 21.08 with DDIM (from memory)",
        experiments={"small": _KEYS},
    ),
    Claim(
        key="faster-diffusion-speed",
        technique="faster-diffusion",
        paper="li2024fasterdiffusion",
        by="paper",
        statement="It saves 41 % of the time of Stable Diffusion 1.5.",
        figure="41 % less time; we count multiply-accumulates",
        experiments={"small": _MACS},
    ),
)
