"""Few steps: where a high order does not pay."""

from __future__ import annotations

from suffuse.claims.exact import FewSteps
from suffuse.claims.exact.trajectories import Density
from suffuse.claims.protocol import Claim, Criterion, ExactArm, Experiment, Plot
from suffuse.sampling import DDIM, DEIS, PLMS, DPMSolver, DPMSolverPP, Heun, SolverPart, UniPC

__all__ = ["CLAIMS"]

_SOLVERS: dict[str, SolverPart] = {
    "DDIM": DDIM(),
    "Heun": Heun(),
    "DPM-Solver-2": DPMSolver(order=2),
    "DPM-Solver-3": DPMSolver(order=3),
    "DPM-Solver++ 2M": DPMSolverPP(),
    "DPM-Solver++ 3M": DPMSolverPP(order=3),
    "DPM-Solver++ 3M, as copied": DPMSolverPP(order=3, published=True),
    "UniPC-2": UniPC(),
    "UniPC-3": UniPC(order=3),
    "DEIS-2": DEIS(order=2),
    "DEIS-3": DEIS(),
    "DEIS-4": DEIS(order=4),
    "PLMS-4": PLMS(),
}
_FAMILIES = (("DPM-Solver++ 2M", "DPM-Solver++ 3M"), ("UniPC-2", "UniPC-3"), ("DEIS-2", "DEIS-3"))
_WHERE: dict[Density, str] = {"three": "", "ring": ", ring"}


FEW_STEPS = Experiment(
    arms=tuple(
        ExactArm(name=f"{name}{where}", exact=FewSteps(solver=solver, density=density))
        for density, where in _WHERE.items()
        for name, solver in _SOLVERS.items()
    ),
    criteria=(
        *(
            Criterion(value="rms@5", arm=f"{third}{where}", over=f"{second}{where}", at_least=1.0)
            for where in _WHERE.values()
            for second, third in _FAMILIES
        ),
        *(
            Criterion(value="rms@20", arm=f"{third}{where}", over=f"{second}{where}", at_most=1.0)
            for where in _WHERE.values()
            for second, third in _FAMILIES
        ),
    ),
    columns=("steps@5", "rms@5", "rms@10", "rms@20", "rms@40"),
    plots=(
        Plot(
            name="budgets",
            values=("rms",),
            title="Error at few evaluations, three Gaussians on a line",
            xlabel="evaluations",
            ylabel="RMS error of the end",
            log="xy",
            arms=("DDIM", "Heun", "DPM-Solver++ 2M", "DPM-Solver++ 3M", "UniPC-2", "UniPC-3", "DEIS-3"),
        ),
    ),
    notes=(
        "Steps are even in log-SNR, on the VP path; a solver of several evaluations a step takes as many steps as the "
        "budget pays for (`steps@5`). That the third order is worse at 5 evaluations was known of DPM-Solver++ and "
        "UniPC on the line when the criterion was written; DEIS and the ring of eight Gaussians are there to see "
        "whether it is so in general. It is not: DEIS, which puts its polynomial through the noise and not the data, "
        "is better with order 3 at every budget.",
    ),
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        key="solvers-few-steps",
        technique="solvers",
        paper="lu2022dpmsolverpp",
        by="suffuse",
        statement="At 5 evaluations order 3 is not better than order 2; at 20 it is.",
        figure="expected: a polynomial through estimates that are far apart in log-SNR swings",
        experiments={"small": FEW_STEPS},
    ),
)
