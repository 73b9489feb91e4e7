"""suffuse compare: quality against cost, for runs, solvers and plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from suffuse.cli.console import note, say
from suffuse.cli.options import Device, Guide, Weights

__all__ = ["compare_command"]


def compare_command(
    runs: Annotated[list[str], typer.Argument(help="Folders of runs.")],
    nfe: Annotated[str, typer.Option("--nfe", help="Network evaluations, separated by commas.")] = "5,10,20,50",
    solver: Annotated[
        str, typer.Option("--solver", help="Kinds, or fields as YAML, separated by commas; each run's own if left out.")
    ] = "",
    plan: Annotated[
        str,
        typer.Option("--plan", help="Likewise: deepcache,'{kind: deepcache, every: 2}'; none is always among them."),
    ] = "",
    data: Annotated[str | None, typer.Option("--data", help="Reference data; the first run's own if left out.")] = None,
    n: Annotated[int, typer.Option("--n", help="Samples a measurement.")] = 1000,
    cfg: Guide = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the samples, the same everywhere.")] = 1,
    weights: Weights = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for table and plot; the first run if left out.")
    ] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Compare runs, solvers and plans at several costs: one table, one plot, one judge."""
    from suffuse.cli.options import numbers_of, several_of
    from suffuse.tasks.compare import compare, comparison_table, contenders, save_comparison
    from suffuse.tasks.judge import judge_of
    from suffuse.tasks.report import write_report
    from suffuse.tasks.runs import open_run, other_data

    costs = numbers_of(nfe, "--nfe")
    opened = [open_run(run, weights=weights, device=device) for run in runs]
    ways = contenders(opened, nfe=costs, solvers=several_of(solver), plans=several_of(plan), cfg=cfg)
    judge = judge_of(opened[0], samples=n, source=other_data(opened[0], data), note=note)
    found = compare(ways, judge, samples=n, seed=seed, on_point=note)
    folder = out or opened[0].folder
    save_comparison(found, folder)
    if out is None:
        write_report(folder)
    say(json.dumps(found.dump()) if as_json else comparison_table(found))
    note(f"wrote {folder / 'comparison.json'} and {folder / 'comparison.png'}")
