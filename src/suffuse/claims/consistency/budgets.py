"""Budgets and measures that the family's claims share."""

from __future__ import annotations

from suffuse.claims.measures import Distance, MeasurePart, PointDistances
from suffuse.sampling import Consistency, Karras

__all__ = ["CIFAR", "CIFAR_DATA", "DIGITS", "MNIST", "MNIST_DATA", "RING", "RING_JUDGED", "jumps", "own"]

RING = ("batch=256", "steps=3000", "checkpoint_every=1000", "training.ema=[100000]")
DIGITS = ("steps=1500", "checkpoint_every=500", "training.ema=[10000]")
MNIST = ("steps=3000", "checkpoint_every=250", "training.ema=[50000]")
CIFAR = (
    "steps=1790",
    "batch=256",
    "checkpoint_every=10000",
    "training.ema=[100000]",
    "training.ema_ramp=0.05",
    "network.dropout=0.0",
    "precision=bfloat16",
    "training.compile=true",
)
MNIST_DATA, CIFAR_DATA = "mnist-train.zip", "cifar10-train.zip"

RING_JUDGED: tuple[MeasurePart, ...] = (PointDistances(),)


def jumps(samples: int, *nfe: int) -> tuple[MeasurePart, ...]:
    """Distance by one jump or a few; a denoiser's mean then stands for the jump."""
    return tuple(
        Distance(solver=Consistency(), grid=Karras(sigma_min=0.8), nfe=count, samples=samples) for count in nfe
    )


def own(samples: int, *nfe: int) -> tuple[MeasurePart, ...]:
    """Distance as each run samples by itself: jumps of a consistency model, steps of a denoiser's solver."""
    return tuple(Distance(solver=None, nfe=count, samples=samples) for count in nfe)
