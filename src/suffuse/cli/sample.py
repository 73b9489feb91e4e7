"""suffuse sample: pictures from a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from suffuse.cli.console import bar, say
from suffuse.cli.options import (
    Batch,
    Device,
    GridName,
    Guide,
    Nfe,
    PlanName,
    Precision,
    PresetName,
    SolverName,
    Steps,
    Weights,
)

__all__ = ["sample_command"]


def sample_command(
    run: Annotated[str, typer.Argument(help="Folder of a run, or owner/name on the Hub.")],
    n: Annotated[int, typer.Option("--n", help="How many samples.")] = 16,
    nfe: Nfe = None,
    steps: Steps = None,
    solver: SolverName = None,
    grid: GridName = None,
    cfg: Guide = None,
    plan: PlanName = None,
    preset: PresetName = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Class by name or number; all in turn if left out.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="With its number, it determines each sample.")] = 0,
    first: Annotated[int, typer.Option("--first", help="Number of the first sample.")] = 0,
    batch: Batch = None,
    precision: Precision = None,
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the pictures; RUN/samples if left out.")] = None,
    separate: Annotated[bool, typer.Option("--separate", help="A file for each sample beside the sheet.")] = False,
    device: Device = "auto",
    time: Annotated[bool, typer.Option("--time", help="Print what it cost.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print facts as JSON.")] = False,
) -> None:
    """Draw samples from a run."""
    from suffuse.base import files
    from suffuse.base.errors import UsageError
    from suffuse.cli.options import fields_of
    from suffuse.tasks.generate import generate
    from suffuse.tasks.pictures import save_each, save_sheet
    from suffuse.tasks.runs import Wanted, named, open_run, settle

    opened = open_run(run, weights=weights, device=device)
    asked = Wanted(
        solver=fields_of(solver),
        grid=fields_of(grid),
        nfe=nfe,
        steps=steps,
        cfg=cfg,
        plan=fields_of(plan),
        batch=batch,
        precision=precision,
        preset=preset,
    )
    settings = settle(opened, asked)
    if separate and len(opened.shape) != 3:
        raise UsageError("these samples are points, not images; leave --separate out")
    folder = out or opened.folder / "samples"
    files.make_folder(folder)
    with bar("sampling") as progress:
        made = generate(
            opened, n, settings, seed=seed, first=first, label=label, on_samples=lambda done: progress.show(done, n)
        )
    sheet = folder / f"seed-{seed}-{first}-{first + n - 1}.png"
    save_sheet(made.x, sheet)
    if separate:
        save_each(made.x, folder, seed, first)
    if as_json:
        how = {joint: named(getattr(settings, joint)) for joint in ("solver", "grid", "guidance", "plan")}
        facts = {"file": str(sheet), "samples": n, "first": first, "seed": seed, "weights": opened.config.weights}
        cost = {"nfe": made.nfe, "seconds": made.seconds, "precision": settings.precision}
        say(json.dumps({**facts, **cost, **how}))
        return
    say(str(sheet))
    if time:
        say(f"{made.seconds:.2f} s, {n / made.seconds:.1f} samples/s, NFE {made.nfe:g}, solver {settings.solver.kind}")
