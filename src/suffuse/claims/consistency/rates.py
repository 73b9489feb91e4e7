"""Provable rates: how the bias of one jump falls with the grid, and the error with the number of samples."""

from __future__ import annotations

from typing import Literal

from suffuse.claims.exact import ConsistencyBias, StatisticalRate
from suffuse.claims.protocol import Claim, Criterion, ExactArm, Experiment, Plot

__all__ = ["CLAIMS"]


def _bias(
    name: str, method: Literal["euler", "heun", "isolation"], data: Literal["three", "normal"] = "three"
) -> ExactArm:
    return ExactArm(name=name, exact=ConsistencyBias(method=method, data=data))


_BIAS = Experiment(
    arms=(
        _bias("distillation, Euler", "euler"),
        _bias("distillation, Heun", "heun"),
        _bias("training", "isolation"),
        _bias("normal law: distillation, Euler", "euler", "normal"),
        _bias("normal law: training", "isolation", "normal"),
    ),
    criteria=(
        Criterion(value="slope", arm="distillation, Euler", at_least=-1.05, at_most=-0.95),
        Criterion(value="slope", arm="distillation, Heun", at_least=-2.1, at_most=-1.9),
        Criterion(value="slope", arm="training", at_least=-0.75, at_most=-0.45),
        Criterion(value="std_ratio@64", arm="normal law: distillation, Euler", at_least=0.956, at_most=0.957),
        Criterion(
            value="std_ratio@64",
            arm="normal law: training",
            over="normal law: distillation, Euler",
            at_least=0.9999,
            at_most=1.0001,
        ),
    ),
    columns=("slope", "w1@16", "w1@64", "w1@512", "std_ratio@64", "std_ratio@512"),
    plots=(
        Plot(
            name="bias",
            values=("w1",),
            title="Bias of one jump of the perfectly trained map",
            xlabel="intervals of the grid",
            ylabel="Wasserstein-1 distance to the data's law",
            log="xy",
        ),
    ),
)

_SAMPLES = Experiment(
    arms=(ExactArm(name="one jump and many steps", exact=StatisticalRate()),),
    criteria=(Criterion(value="slope_gap", arm="one jump and many steps", at_most=0.1),),
    columns=("slope_one", "slope_many", "slope_gap", "one@30", "many@30", "one@1000", "many@1000"),
    seeds=(0, 1, 2, 3, 4),
    plots=(
        Plot(
            name="samples",
            values=("one", "many"),
            title="Error of the law against the number of samples that the score is made of",
            xlabel="samples",
            ylabel="Wasserstein-1 distance to the true law",
            log="xy",
        ),
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="consistency-rates-bias",
        technique="consistency",
        paper="dou2024rates",
        by="suffuse",
        statement="The bias of distillation falls with the order of the teacher's solver; that of training without a "
        "teacher like the square root, which is why its grids must be fine; on a normal law both are Euler's.",
        figure="bounds of order 1/N in the literature; slopes -1, -2 and about -1/2 by our derivation",
        experiments={"small": _BIAS},
    ),
    Claim(
        key="consistency-rates-samples",
        technique="consistency",
        paper="dou2024rates",
        by="paper",
        statement="Merging the steps costs no statistical rate: error against the number of samples falls alike.",
        figure="equal exponents for consistency and diffusion models (Theorems 1 and 2)",
        experiments={"small": _SAMPLES},
    ),
)
