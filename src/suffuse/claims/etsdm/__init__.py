"""E-TSDM's claims: the singularity, what sharing does to few-step samplers, and the alternatives, at equal budget.

Every trained arm differs from `none` in the overrides that `changes` has under its name and in nothing else: the
weights start alike, and data and noise come in the same order. What can be said without training is said on densities
whose best network is known exactly.
"""

from __future__ import annotations

from typing import Literal

from suffuse.claims.etsdm.known import MANIFOLD, PERFECT_SAMPLING, PRICE, SINGULARITY
from suffuse.claims.etsdm.trained import (
    ABLATION,
    CIFAR,
    CIFAR_DATA,
    DIGITS,
    FIT,
    FULL,
    LONGER,
    MNIST,
    MNIST_DATA,
    TOO_LATE,
    alternatives,
    breadth,
    distance,
    lipschitz,
    stability,
)
from suffuse.claims.measures import Distance
from suffuse.claims.protocol import TIERS, Claim, Experiment
from suffuse.sampling import DDPM

__all__ = ["CLAIMS"]


def _claim(
    key: str, by: Literal["paper", "reviewers", "suffuse"], statement: str, figure: str, **tiers: Experiment
) -> Claim:
    return Claim(
        key=f"etsdm-{key}",
        technique="etsdm",
        paper="yang2024etsdm",
        by=by,
        statement=statement,
        figure=figure,
        experiments={tier: tiers[tier] for tier in TIERS if tier in tiers},
    )


# Full steps of DDPM cost a thousand evaluations a sample: few samples in the long tier, fewer steps in the small one.
_SHORT_DDPM = Distance(solver=DDPM(), nfe=250, samples=200)
_FULL_DDPM = Distance(solver=DDPM(), nfe=1000, samples=200)
_GPU_DDPM = Distance(solver=DDPM(), nfe=1000, samples=1000)
_PAPER_DDPM = Distance(solver=DDPM(), nfe=1000, samples=50_000)

_MORE = ("v eps loss", "zero-snr", "score", "p2", "edm", "edm etsdm")
_OTHERS = ("remap", "penalty", "straight", "min-snr", "v", "v etsdm", "x0")

CLAIMS: tuple[Claim, ...] = (
    _claim(
        "singularity",
        "paper",
        "The best eps- and v-network change infinitely fast in time at clean data where beta(0) > 0, and there alone: "
        "not with x0-prediction, nor on the flow and plain cosine paths.",
        "K(t) grows like t to the power -1/2 (Theorem 3.1; which targets and paths is our reading)",
        small=SINGULARITY,
    ),
    _claim(
        "manifold",
        "suffuse",
        "On data of low dimension the best network changes like 1 / t on every path: that flow and plain cosine have "
        "no singularity holds for data that fill their space.",
        "exponent -1 for eps, v and velocity; none for x0",
        small=MANIFOLD,
    ),
    _claim(
        "lipschitz",
        "paper",
        "Trained networks show it too, and with sharing the change in time is zero inside a sub-interval.",
        "K(t) near clean data is far above its middle for the baseline (Figure 2, from memory)",
        small=lipschitz("digits-ddpm", DIGITS, None, "v", "x0", "plain cosine", "flow"),
        long=lipschitz("mnist14-ddpm", MNIST, MNIST_DATA, "v", "x0"),
        gpu=lipschitz("cifar10-ddpm", CIFAR, CIFAR_DATA).replace(seeds=(0,)),
    ),
    _claim(
        "distance",
        "paper",
        "At equal training, sharing lowers the distance of samples by over a third with DDIM and with DPM-Solver, and "
        "does not raise DDPM's.",
        "FID lower by over 33 % for both families of fast solvers (abstract)",
        small=distance("digits-ddpm", DIGITS, None, most=0.67, full=_SHORT_DDPM),
        long=distance("mnist14-ddpm", MNIST, MNIST_DATA, most=0.67, full=_FULL_DDPM),
        gpu=distance("cifar10-ddpm", CIFAR, CIFAR_DATA, most=0.67, full=_GPU_DDPM, samples=5000, seeds=(0,)),
        full=distance("cifar10-ddpm", FULL, CIFAR_DATA, most=0.67, full=_PAPER_DDPM, samples=50_000, seeds=(0,)),
    ),
    _claim(
        "no-harm",
        "suffuse",
        "Sharing raises the distance of samples by 5 % at most.",
        "a tie is what the price of sharing lets one expect of small networks",
        small=distance("digits-ddpm", DIGITS, None, most=1.05, full=_SHORT_DDPM),
        long=distance("mnist14-ddpm", MNIST, MNIST_DATA, most=1.05, full=_FULL_DDPM),
    ),
    _claim(
        "alternatives",
        "reviewers",
        "Sharing is better than each alternative: regulariser, Remap, changed schedules, other targets and weightings.",
        "asked for by a reviewer; the paper has it for some of them, without intervals",
        small=alternatives("digits-ddpm", DIGITS, None, *_OTHERS, *_MORE),
        long=alternatives("mnist14-ddpm", MNIST, MNIST_DATA, *_OTHERS),
    ),
    _claim(
        "ablation",
        "paper",
        "A single sub-interval and a range of 300 are worse than five below 100; an uneven division gains nothing.",
        "from memory: gains up to a range of about 100, flat from 5 sub-intervals on",
        small=ABLATION,
    ),
    _claim(
        "breadth",
        "suffuse",
        "Sharing helps on the offset cosine path, with a transformer and with v-prediction; it does nothing on the "
        "flow path and under EDM's preconditioning told log(sigma) / 4.",
        "expected from where the singularity is",
        small=breadth("digits-ddpm", DIGITS, helps=("cosine", "dit", "v"), idle=("flow", "edm")),
    ),
    _claim(
        "v",
        "suffuse",
        "Sharing helps v-prediction.",
        "expected from where the singularity is",
        long=breadth("mnist14-ddpm", MNIST, MNIST_DATA, helps=("v",)),
    ),
    _claim(
        "stability",
        "paper",
        "Sharing makes training steadier at small t: less spread of losses and gradients.",
        "from memory, without a figure",
        small=stability("digits-ddpm", DIGITS, None),
        long=stability("mnist14-ddpm", MNIST, MNIST_DATA),
    ),
    _claim(
        "price",
        "suffuse",
        "What sharing costs the best network is at most 1 / (2 (n - d)) per element, which matters less the more "
        "dimensions the data have.",
        "3.8 % of the loss at n = 48, d = 7; 2.2 % at n = 784, d = 20",
        small=PRICE,
    ),
    _claim(
        "fit",
        "suffuse",
        "Real networks miss more near clean data for the singularity than sharing costs, so that sharing lowers their "
        "distance from the best network; the more so when the embedding of time is smooth.",
        "expected, if the paper's gain comes from what networks fail to fit",
        long=FIT,
    ),
    _claim(
        "longer",
        "suffuse",
        "With eight times the training of the small tier, sharing overtakes the baseline.",
        "expected, if the paper's gain shows only in networks that are trained to the end",
        long=LONGER,
    ),
    _claim(
        "perfect-sampling",
        "suffuse",
        "With best networks, few-step samplers do neither better nor worse for sharing, within 5 %.",
        "expected: the paper's gain must come from what real networks fail to fit",
        small=PERFECT_SAMPLING,
    ),
    _claim(
        "too-late",
        "suffuse",
        "Sharing switched on for sampling alone is ruinous: worse than predicting no noise at all.",
        "an error above 1 at every dimension, where answering zero scores 1",
        small=TOO_LATE,
    ),
)
