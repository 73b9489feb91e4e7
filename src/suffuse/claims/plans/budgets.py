"""Networks on which plans are tried: a U-Net and a DiT on procedural shapes, trained for some minutes on a core."""

from __future__ import annotations

from suffuse.claims.protocol import Arm

__all__ = ["DIT", "SAMPLES", "SHARED", "UNET"]

SHARED = ("data.kind=shapes", "data.size=16", "data.count=10000", "steps=1000", "batch=64", "checkpoint_every=250")
UNET = Arm(
    name="U-Net",
    recipe="digits-ddpm",
    overrides=("network={kind: unet, channels: 32, multipliers: [1, 2, 2], attention_levels: [2], groups: 8}",),
    note="1.1 M weights, the noise as target, a linear schedule, as the papers' models.",
)
DIT = Arm(
    name="DiT",
    recipe="shapes-dit-flow",
    overrides=("network={kind: dit, width: 96, depth: 6, heads: 3, patch: 2}", "training.ema=[10000]"),
    note="1.1 M weights, 64 tokens, the flow path.",
)
SAMPLES = 128
