"""suffuse tune: the best way to sample a run at a cost."""

from __future__ import annotations

import json
import shlex
from typing import Annotated

import typer

from suffuse.cli.console import note, say
from suffuse.cli.options import Device, Weights

__all__ = ["tune_command"]


def tune_command(
    run: Annotated[str, typer.Argument(help="Folder of a run.")],
    nfe: Annotated[int | None, typer.Option("--nfe", help="Network evaluations per sample, guidance included.")] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", help="Instead: a share of what the run's own sampling costs, up to 1.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Reference data; the run's own if left out.")] = None,
    n: Annotated[int, typer.Option("--n", help="Samples a trial.")] = 1000,
    tries: Annotated[int, typer.Option("--tries", help="Trials for each time of a consistency model.")] = 14,
    seed: Annotated[int, typer.Option("--seed", help="Of the samples while searching.")] = 1,
    weights: Weights = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Search the best way to sample at a cost; writes a preset for `sample --preset`.

    Of a consistency model the times at which it is asked again (2 evaluations if no cost is given), of any other the
    solver and the grid (half of its own cost), and for a share of its cost also steps and what the network leaves out.
    """
    from suffuse.base.errors import UsageError
    from suffuse.tasks.judge import judge_of
    from suffuse.tasks.presets import save_preset
    from suffuse.tasks.runs import open_run, other_data
    from suffuse.tasks.tune import tune_times
    from suffuse.tasks.tune_solvers import nfe_within, tune_solver

    if nfe is not None and budget is not None:
        raise UsageError("--nfe and --budget both say what it may cost; give one of them")
    opened = open_run(run, weights=weights, device=device)
    jumps = opened.model.estimate == "endpoint"
    if budget is not None or (nfe is None and not jumps):
        share = 0.5 if budget is None else budget
        cost, name = nfe_within(opened, share), f"budget-{share:g}"
    else:
        cost = 2 if nfe is None else nfe
        name = f"nfe-{cost}"
    judge = judge_of(opened, samples=n, source=other_data(opened, data), note=note)

    def told(way: str, distance: float) -> None:
        note(f"{way}: {judge.headline} {distance:.4g}")

    if jumps:
        found = tune_times(opened, judge, cost, samples=n, seed=seed, tries=tries, on_try=told)
    else:
        plans = nfe is None  # evaluations are no unit of what plans save
        found = tune_solver(opened, judge, cost, name=name, plans=plans, samples=n, seed=seed, on_try=told)
    file = save_preset(opened.folder, found.preset)
    if as_json:
        say(json.dumps({"file": str(file), **found.preset.found}))
        return
    way = found.preset.found["way"]
    say(f"{way}: {found.headline} {found.after:.4g}, the run's own way at that cost {found.before:.4g}")
    if found.after > found.before:
        note("on fresh noise what was found is no better than the run's own; more samples (--n) make the search surer")
    say(f"{file}; next: suffuse sample {shlex.quote(str(run))} --preset {found.preset.name}")
