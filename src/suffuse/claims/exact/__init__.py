"""Experiments without training; each paper's stand in a file of its own."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.claims.exact.base import ExactPart
from suffuse.claims.exact.cascade_macs import CascadeMacs
from suffuse.claims.exact.consistency_rates import ConsistencyBias, StatisticalRate
from suffuse.claims.exact.etsdm import PerfectSampling, PriceOfSharing, Singularity
from suffuse.claims.exact.plans import PlanMacs
from suffuse.claims.exact.solvers import FewSteps, SchedulerMatch, SolverOrder, WeakOrder

__all__ = [
    "CascadeMacs",
    "ConsistencyBias",
    "Exact",
    "ExactPart",
    "FewSteps",
    "PerfectSampling",
    "PlanMacs",
    "PriceOfSharing",
    "SchedulerMatch",
    "Singularity",
    "SolverOrder",
    "StatisticalRate",
    "WeakOrder",
]

Exact = Annotated[
    ExactPart,
    Joint(
        "exact",
        Singularity,
        PriceOfSharing,
        PerfectSampling,
        ConsistencyBias,
        StatisticalRate,
        SolverOrder,
        WeakOrder,
        FewSteps,
        SchedulerMatch,
        PlanMacs,
        CascadeMacs,
    ),
]
