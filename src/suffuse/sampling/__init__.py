"""Sampling: grids, solvers, guidance and the one loop."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.sampling.grid import GridPart, Karras, ListedTimes, LogSNR, Quadratic, Uniform
from suffuse.sampling.grid_laws import AlignYourSteps, BetaLaw, Shifted
from suffuse.sampling.guidance import APG, CFG, Guidance, GuidancePart, NoGuidance, scale_from
from suffuse.sampling.loop import Model, Samples, sample, sample_batches
from suffuse.sampling.solvers import (
    DDIM,
    DDPM,
    DEIS,
    PLMS,
    RK4,
    Adaptive,
    Consistency,
    DPMSolver,
    DPMSolverPP,
    Estimate,
    Euler,
    EulerAncestral,
    Heun,
    MapSteps,
    Midpoint,
    SASolver,
    Solver,
    SolverPart,
    UniPC,
    transfer,
)

__all__ = [
    "APG",
    "CFG",
    "DDIM",
    "DDPM",
    "DEIS",
    "PLMS",
    "RK4",
    "Adaptive",
    "AlignYourSteps",
    "BetaLaw",
    "Consistency",
    "DPMSolver",
    "DPMSolverPP",
    "Estimate",
    "Euler",
    "EulerAncestral",
    "Grid",
    "GridPart",
    "Guidance",
    "GuidancePart",
    "Heun",
    "Karras",
    "ListedTimes",
    "LogSNR",
    "MapSteps",
    "Midpoint",
    "Model",
    "NoGuidance",
    "Quadratic",
    "SASolver",
    "Samples",
    "Shifted",
    "Solver",
    "SolverPart",
    "UniPC",
    "Uniform",
    "sample",
    "sample_batches",
    "scale_from",
    "transfer",
]

Grid = Annotated[
    GridPart, Joint("grid", Uniform, Quadratic, Karras, LogSNR, Shifted, AlignYourSteps, BetaLaw, ListedTimes)
]
