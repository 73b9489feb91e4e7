"""Sampling: grids, solvers, guidance and the one loop."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.sampling.grid import GridPart, Karras, ListedTimes, LogSNR, Quadratic, Uniform
from suffuse.sampling.guidance import CFG, Guidance, GuidancePart, NoGuidance
from suffuse.sampling.loop import Model, Samples, sample, sample_batches
from suffuse.sampling.solvers import (
    DDIM,
    DDPM,
    Consistency,
    DPMSolverPP,
    Estimate,
    Euler,
    Heun,
    MapSteps,
    Solver,
    SolverPart,
    transfer,
)

__all__ = [
    "CFG",
    "DDIM",
    "DDPM",
    "Consistency",
    "DPMSolverPP",
    "Estimate",
    "Euler",
    "Grid",
    "GridPart",
    "Guidance",
    "GuidancePart",
    "Heun",
    "Karras",
    "ListedTimes",
    "LogSNR",
    "MapSteps",
    "Model",
    "NoGuidance",
    "Quadratic",
    "Samples",
    "Solver",
    "SolverPart",
    "Uniform",
    "sample",
    "sample_batches",
    "transfer",
]

Grid = Annotated[GridPart, Joint("grid", Uniform, Quadratic, Karras, LogSNR, ListedTimes)]
