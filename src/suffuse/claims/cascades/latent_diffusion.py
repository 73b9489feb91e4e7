"""Latent diffusion against diffusion of pixels at equal training time, the autoencoder's charged."""

from __future__ import annotations

from suffuse.claims.measures import MeasurePart, PromptsMet
from suffuse.claims.measures.distance import Distance
from suffuse.claims.protocol import Arm, Claim, Criterion, Experiment

__all__ = ["CLAIMS"]

_SHARED = ("data.count=20000", "batch=64", "checkpoint_every=250")
_MEASURES: tuple[MeasurePart, ...] = (PromptsMet(samples=500), Distance(solver=None, nfe=20, samples=500))
_NETWORK = "network={kind: unet, channels: 16, multipliers: [1, 2, 2], blocks: 1, attention_levels: [2], groups: 8}"

# Steps that cost as much time each, by measurement on one core (1.69, 5.9 and 11.2 a second, those of the autoencoders
# 4.2 and 4.9); those in latents have paid for their autoencoder, which needs some thousand steps of any batch.
_CODEC = {2: 500, 4: 1000}
_STEPS = {1: 676, 2: 1670, 4: 2270}


def _codec(factor: int) -> Arm:
    multipliers = "[1, 2]" if factor == 2 else "[1, 2, 2]"
    return Arm(
        name=f"autoencoder, f = {factor}",
        recipe="shapes-ldm:autoencoder",
        overrides=(f"network.multipliers={multipliers}", "batch=32", f"steps={_CODEC[factor]}"),
        equal=False,
        note="Its time is its model's.",
    )


def _latent(factor: int) -> Arm:
    return Arm(
        name=f"latents, f = {factor}",
        recipe="shapes-ldm:prior",
        overrides=("codec.run={after}", _NETWORK, f"steps={_STEPS[factor]}"),
        after=f"autoencoder, f = {factor}",
        equal=False,
        note="As long as in pixels, with its autoencoder.",
    )


_SMALL = Experiment(
    arms=(
        Arm(name="pixels", recipe="shapes-ldm:prior", overrides=("codec=null", _NETWORK, f"steps={_STEPS[1]}")),
        _codec(2),
        _latent(2),
        _codec(4),
        _latent(4),
    ),
    shared=_SHARED,
    measures=_MEASURES,
    criteria=(
        Criterion(value="distance_own@20", arm="latents, f = 4", over="pixels", at_most=0.8),
        Criterion(value="bound", arm="latents, f = 4", over="pixels", at_least=1.0),
        Criterion(value="seconds_per_image", arm="pixels", over="latents, f = 4", at_least=4.0),
        Criterion(value="distance_own@20", arm="latents, f = 4", over="latents, f = 2", at_most=1.0),
    ),
    columns=("bound", "whole", "distance_own@20", "seconds_per_image"),
    notes=(
        "One U-Net of 0.44 M weights in all spaces; every arm, its autoencoder included, is trained as long. "
        "`distance_own@20` is without guidance, by 20 steps of the run's own solver.",
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="ldm-pixels",
        technique="latent-diffusion",
        paper="rombach2022ldm",
        by="paper",
        statement="At equal training time diffusion in latents is nearer to the data than diffusion in pixels, and "
        "samples are several times as cheap.",
        figure="Section 4.1: f of 4 to 8 best, f of 1 and 2 slow; 38 FID between f = 1 and 8 (from memory)",
        experiments={"small": _SMALL},
    ),
)
