"""Solvers: how we go back from noise to data. Each is `init` and `step` on any path and prediction."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.process import transfer
from suffuse.sampling.solvers.adaptive import Adaptive
from suffuse.sampling.solvers.ancestral import EulerAncestral
from suffuse.sampling.solvers.base import Estimate, Estimator, OnGrid, SolverPart, stochastic_transfer
from suffuse.sampling.solvers.consistency import Consistency, MapSteps
from suffuse.sampling.solvers.ddim import DDIM, DDPM
from suffuse.sampling.solvers.deis import DEIS
from suffuse.sampling.solvers.dpm_solver import DPMSolverPP
from suffuse.sampling.solvers.plms import PLMS
from suffuse.sampling.solvers.runge_kutta import RK4, Euler, Heun, Midpoint
from suffuse.sampling.solvers.sa_solver import SASolver
from suffuse.sampling.solvers.single_step import DPMSolver
from suffuse.sampling.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "PLMS",
    "RK4",
    "Adaptive",
    "Consistency",
    "DPMSolver",
    "DPMSolverPP",
    "Estimate",
    "Estimator",
    "Euler",
    "EulerAncestral",
    "Heun",
    "MapSteps",
    "Midpoint",
    "OnGrid",
    "SASolver",
    "Solver",
    "SolverPart",
    "UniPC",
    "stochastic_transfer",
    "transfer",
]

Solver = Annotated[
    SolverPart,
    Joint(
        "solver",
        DDIM,
        DDPM,
        Euler,
        EulerAncestral,
        Heun,
        Midpoint,
        RK4,
        DPMSolver,
        DPMSolverPP,
        UniPC,
        DEIS,
        PLMS,
        SASolver,
        Adaptive,
        Consistency,
        MapSteps,
    ),
]
