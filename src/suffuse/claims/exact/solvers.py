"""Experiments with solvers: orders of convergence and few steps on known densities, and diffusers' schedulers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from suffuse.claims.exact.base import ExactPart
from suffuse.claims.exact.trajectories import (
    DENSITIES,
    Density,
    error,
    one_normal,
    slope,
    three_normals,
    trajectory,
    variance_error,
)
from suffuse.interop.scheduler_match import largest_difference
from suffuse.interop.scheduler_pairs import PAIRS
from suffuse.process import Path
from suffuse.sampling import Solver

__all__ = ["FewSteps", "SchedulerMatch", "SolverOrder", "WeakOrder"]


class SolverOrder(ExactPart):
    """Order of convergence of a deterministic solver, on three Gaussians on a line, even in the half log-SNR.

    Values: rms@N, the error of the end after N steps; slope, of its logarithm over that of the step width, and going,
    the same when the first quarter of the steps start from the true trajectory, so that the memory is exact; declared
    and declared_going, what the solver says of itself; off, by how much `going` misses declared_going, or `slope` lies
    outside the two declared orders, whichever is more.

    Attributes:
        solver: A deterministic one.
        path: On which path.
        counts: Numbers of steps, doubled, from which slopes are taken: many, for a start of low order costs one error
            of its own, which others hide as long as they are larger.
        shown: Further numbers of steps whose errors are told.
    """

    kind: Literal["solver_order"] = "solver_order"
    solver: Solver
    path: Path = Field(default="vp", validate_default=True)
    counts: tuple[int, ...] = (160, 320, 640)
    shown: tuple[int, ...] = (20, 40, 80)

    def of(self, seed: int) -> dict[str, float]:
        """Errors and slopes over 64 starts."""

        model, truth = three_normals(self.path), trajectory("three", seed, self.counts[-1], 8)

        def rms(steps: int, warm: int = 0) -> float:
            return error(self.solver, model, truth, steps, warm=warm)

        own = {steps: rms(steps) for steps in (*self.shown, *self.counts)}
        warm = [rms(steps, steps // 4) for steps in self.counts]
        found, going = slope(self.counts, [own[steps] for steps in self.counts]), slope(self.counts, warm)
        declared, declared_going = float(self.solver.convergence), float(self.solver.interior)
        return {
            "slope": found,
            "going": going,
            "declared": declared,
            "declared_going": declared_going,
            "off": max(abs(going - declared_going), declared - found, found - declared_going),
            **{f"rms@{steps}": value for steps, value in own.items()},
            **{f"rms_going@{steps}": value for steps, value in zip(self.counts, warm, strict=True)},
        }


class WeakOrder(ExactPart):
    """Weak order of convergence of a stochastic solver: of the variance in which it ends on Gaussian data, exactly.

    Values: variance@N, the relative error after N steps, without its sign; slope of its logarithm; declared.

    Attributes:
        solver: A stochastic one.
        path: On which path.
        counts: Numbers of steps from which the slope is taken.
        shown: Further numbers of steps whose errors are told.
    """

    kind: Literal["weak_order"] = "weak_order"
    solver: Solver
    path: Path = Field(default="vp", validate_default=True)
    counts: tuple[int, ...] = (160, 320, 640)
    shown: tuple[int, ...] = (20, 40, 80)

    def of(self, seed: int) -> dict[str, float]:
        """Deterministic: the seed changes nothing."""
        model = one_normal(self.path)
        found = {n: abs(variance_error(self.solver, model, n)[1]) for n in (*self.shown, *self.counts)}
        return {
            "slope": slope(self.counts, [found[n] for n in self.counts]),
            "declared": float(self.solver.convergence),
            **{f"variance@{n}": value for n, value in found.items()},
        }


class FewSteps(ExactPart):
    """Error of a deterministic solver at few evaluations, on even half log-SNRs.

    Values: rms@N, the error of the end with as many steps as N evaluations pay for; steps@N, how many those are.

    Attributes:
        solver: A deterministic one.
        density: Three Gaussians on a line, or eight on a ring in the plane.
        path: On which path.
        budgets: Evaluations.
    """

    kind: Literal["few_steps"] = "few_steps"
    solver: Solver
    density: Density = "three"
    path: Path = Field(default="vp", validate_default=True)
    budgets: tuple[int, ...] = (5, 10, 20, 40)

    def of(self, seed: int) -> dict[str, float]:
        """Errors over 64 starts."""
        steps = {budget: self.solver.steps_for(budget, to_clean=False) for budget in self.budgets}
        model, truth = DENSITIES[self.density](self.path), trajectory(self.density, seed, 1, 1000)
        found = {n: error(self.solver, model, truth, n) for n in set(steps.values())}
        return {f"rms@{budget}": found[n] for budget, n in steps.items()} | {
            f"steps@{budget}": float(n) for budget, n in steps.items()
        }


class SchedulerMatch(ExactPart):
    """A solver of ours against diffusers' scheduler, step by step, both asking the same analytic network.

    Values: difference, the largest of any step, relative to the largest element; and steps.

    Attributes:
        pair: Key in the table of pairs.
    """

    kind: Literal["scheduler_match"] = "scheduler_match"
    pair: str

    def of(self, seed: int) -> dict[str, float]:
        """Starts and noise by seed.

        Raises:
            UsageError: diffusers is not installed.
        """
        pair = PAIRS[self.pair]
        return {"difference": largest_difference(pair, seed), "steps": float(pair.steps)}
