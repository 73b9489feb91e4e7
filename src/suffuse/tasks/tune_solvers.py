"""Tune a denoiser: search solver, grid, steps and plan for the smallest distance at a cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from suffuse.acceleration import (
    DeepCache,
    EncoderReuse,
    NoPlan,
    PlanPart,
    RegionAdaptive,
    ResidualReuse,
    Taylor,
    denoiser_macs,
)
from suffuse.base.errors import UsageError
from suffuse.sampling import (
    DDIM,
    DDPM,
    DEIS,
    PLMS,
    DPMSolver,
    DPMSolverPP,
    GridPart,
    Heun,
    Karras,
    LogSNR,
    Quadratic,
    Shifted,
    SolverPart,
    Uniform,
    UniPC,
)
from suffuse.tasks.generate import conditions_for, generate
from suffuse.tasks.judge import Judge, ruler_of
from suffuse.tasks.presets import Preset
from suffuse.tasks.runs import OpenRun, Wanted, named, settle
from suffuse.tasks.tune import Tuned, tuned
from suffuse.training.settings import SamplingSettings

__all__ = ["cost_of", "nfe_within", "tune_solver"]

_SOLVERS: tuple[SolverPart, ...] = (
    DDIM(),
    DDPM(),
    Heun(),
    DPMSolver(order=2, form="data"),
    DPMSolver(order=3, form="data"),
    DPMSolverPP(order=2),
    DPMSolverPP(order=3),
    DPMSolverPP(order=2, sde=True),
    UniPC(order=2),
    UniPC(order=3),
    DEIS(order=2),
    DEIS(order=3),
    PLMS(),
)
_GRIDS: tuple[GridPart, ...] = (Uniform(), Quadratic(), Karras(), LogSNR(), Shifted())
# Those whose cost is known before they run.
_PLANS: tuple[PlanPart, ...] = (
    *(DeepCache(every=every, branch=branch) for every in (2, 3, 5) for branch in (0, 1, 2)),
    EncoderReuse(),
    EncoderReuse(every=2),
    ResidualReuse(every=2),
    ResidualReuse(every=3),
    Taylor(every=3),
    Taylor(every=5),
    RegionAdaptive(ratio=0.5),
)
_PLANNED = 2  # ways that are tried with plans, the best of the first look
_FIRST = 4  # a first look takes so many times fewer samples ...
_KEPT = 0.2  # ... and leaves this share of the ways, at least so many:
_LEAST = 4
_MOST = 5  # under a plan so many times the steps at most


def cost_of(settings: SamplingSettings, run: OpenRun) -> int:
    """Network evaluations a sample that settings take, guidance included."""
    path = run.config.path
    to_clean = float(path.level(settings.grid.last(path)).sigma) == 0
    return settings.solver.evaluations(settings.grid.steps, to_clean=to_clean) * settings.guidance.most_evaluations


def nfe_within(run: OpenRun, budget: float) -> int:
    """The evaluations of a share of what the run's own way of sampling takes.

    Raises:
        UsageError: The share is not between 0 and 1, or leaves no evaluation.
    """
    if not 0 < budget <= 1:
        raise UsageError(f"budget is {budget:g}; it is a share of the run's own cost, above 0 and at most 1")
    own = settle(run, Wanted())
    full = cost_of(own, run)
    nfe = math.floor(budget * full + 1e-9)
    if nfe < own.guidance.most_evaluations:
        raise UsageError(f"budget {budget:g} of the run's own {full} evaluations leaves none; raise it")
    return nfe


def tune_solver(
    run: OpenRun,
    judge: Judge,
    nfe: int,
    *,
    name: str,
    plans: bool = False,
    samples: int = 1000,
    seed: int = 1,
    on_try: Callable[[str, float], None] = lambda way, distance: None,
) -> Tuned:
    """Search solver and grid for `nfe` evaluations, and with them plans under which more steps cost no more.

    All ways are looked at with a few samples, and the best two also under every plan; the best of all again with all
    samples. They share their noise, and what is reported is measured on fresh noise.

    Args:
        run: A denoiser.
        judge: Reference data and feature space.
        nfe: Network evaluations per sample at most, guidance included; under a plan, what costs as much.
        name: Of the preset.
        plans: Search plans too. Those that decide while they run are not tried: nobody knows their cost beforehand.
        samples: How many, each time in the second round.
        seed: Of the samples while searching; the next one is that of the report.
        on_try: Told each trial of the second round.

    Raises:
        UsageError: The run is a consistency model, or cannot be sampled in so few evaluations.
    """
    if run.model.estimate != "mean":
        raise UsageError(
            f"{run.folder} is a consistency model, which no solver steps through; give --nfe, not --budget"
        )
    own = settle(run, Wanted(nfe=nfe))
    ways = [own, *(way for way in _ways(run, nfe) if way != own)]

    def score(way: SamplingSettings, count: int, from_seed: int) -> float:
        made = generate(run, count, way, seed=from_seed)
        if not made.x.isfinite().all():  # it blew up: no judge takes such samples, and it comes last
            return math.inf
        return judge.distance(made, ruler_of(run, way, made, from_seed)).value

    few = max(samples // _FIRST, min(samples, judge.least))
    looked = {way: score(way, few, seed) for way in ways}
    if plans:
        best_plain = sorted(looked, key=looked.__getitem__)[:_PLANNED]
        planned = [more for way in best_plain for more in _planned(run, way, nfe)]
        looked |= {way: score(way, few, seed) for way in planned}
    first = sorted(looked, key=looked.__getitem__)
    best: list[tuple[float, SamplingSettings]] = []
    for way in first[: max(_LEAST, math.ceil(_KEPT * len(looked)))]:
        value = score(way, samples, seed)
        on_try(_words(way), value)
        best.append((value, way))
    found = min(best, key=lambda pair: pair[0])[1]
    before, after = (score(way, samples, seed + 1) for way in (own, found))
    preset = Preset(name, found, {"nfe": nfe, "tried": len(looked), "way": _words(found)})
    return tuned(preset, run, judge, samples, seed, (before, after), [(_words(way), value) for value, way in best])


def _planned(run: OpenRun, way: SamplingSettings, nfe: int) -> list[SamplingSettings]:
    """A way under each plan that fits the network, in as many steps as then cost no more than `nfe` evaluations."""
    found = []
    macs = denoiser_macs(run.model, cond=conditions_for(run, 1)[0])
    for plan in _PLANS:
        try:
            plan.check(run.model.network)
        except UsageError:  # for another kind of network
            continue
        best = None
        for steps in range(way.grid.steps + 1, _MOST * way.grid.steps + 1):
            longer = way.replace(grid=way.grid.replace(steps=steps), plan=plan)
            try:
                share = plan.preview(run.model.network, steps).with_macs(macs).total
                longer.grid.times(run.config.path)
            except UsageError:  # more steps than the grid has room for
                break
            if cost_of(longer, run) * share <= nfe:
                best = longer
        if best is not None:
            found.append(best)
    return found


def _words(way: SamplingSettings) -> str:
    plan = "" if way.plan == NoPlan() else f", {named(way.plan)}, {way.grid.steps} steps"
    return f"{named(way.solver)} on {named(way.grid)}{plan}"


def _ways(run: OpenRun, nfe: int) -> Sequence[SamplingSettings]:
    """All solvers on all grids that the run's path and the cost allow."""
    found = []
    for solver, grid in itertools.product(_SOLVERS, _GRIDS):
        plain = grid.dump()
        del plain["steps"]
        try:
            found.append(settle(run, Wanted(solver=solver.dump(), grid=plain, nfe=nfe)))
        except UsageError:  # not on this path, or not even one step at this cost
            continue
    return found
