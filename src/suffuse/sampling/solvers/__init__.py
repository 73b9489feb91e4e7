"""Solvers: how we go back from noise to data. Each is `init` and `step` on any path and prediction."""

from typing import Annotated

from suffuse.base.part import Joint
from suffuse.process import transfer
from suffuse.sampling.solvers.base import Estimate, Estimator, OnGrid, SolverPart, stochastic_transfer
from suffuse.sampling.solvers.consistency import Consistency, MapSteps
from suffuse.sampling.solvers.ddim import DDIM, DDPM
from suffuse.sampling.solvers.dpm_solver import DPMSolverPP
from suffuse.sampling.solvers.runge_kutta import Euler, Heun

__all__ = [
    "DDIM",
    "DDPM",
    "Consistency",
    "DPMSolverPP",
    "Estimate",
    "Estimator",
    "Euler",
    "Heun",
    "MapSteps",
    "OnGrid",
    "Solver",
    "SolverPart",
    "stochastic_transfer",
    "transfer",
]

Solver = Annotated[SolverPart, Joint("solver", DDIM, DDPM, Euler, Heun, DPMSolverPP, Consistency, MapSteps)]
