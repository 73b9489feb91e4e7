"""suffuse tune: the best way to sample a run at a cost."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from suffuse.cli.console import note, say
from suffuse.cli.options import Device, Weights

__all__ = ["tune_command"]


def tune_command(
    run: Annotated[str, typer.Argument(help="Folder of a run of a consistency objective.")],
    nfe: Annotated[int, typer.Option("--nfe", help="Network evaluations per sample, 2 or more.")] = 2,
    data: Annotated[str | None, typer.Option("--data", help="Reference data; the run's own if left out.")] = None,
    n: Annotated[int, typer.Option("--n", help="Samples a trial.")] = 1000,
    tries: Annotated[int, typer.Option("--tries", help="Trials for each time.")] = 14,
    seed: Annotated[int, typer.Option("--seed", help="Of the samples while searching.")] = 1,
    weights: Weights = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Search the times of multistep consistency sampling; writes a preset for `sample --preset`."""
    from suffuse.tasks.judge import judge_of
    from suffuse.tasks.presets import save_preset
    from suffuse.tasks.runs import open_run, other_data
    from suffuse.tasks.tune import tune_times

    opened = open_run(run, weights=weights, device=device)
    judge = judge_of(opened, samples=n, source=other_data(opened, data), note=note)

    def told(levels: tuple[float, ...], distance: float) -> None:
        note(f"sigma/alpha {', '.join(f'{level:.3g}' for level in levels)}: {judge.headline} {distance:.4g}")

    found = tune_times(opened, judge, nfe, samples=n, seed=seed, tries=tries, on_try=told)
    file = save_preset(opened.folder, found.preset)
    if as_json:
        say(json.dumps({"file": str(file), **found.preset.found}))
        return
    levels = ", ".join(f"{level:.3g}" for level in found.preset.found["levels"])
    say(f"sigma/alpha {levels}: {found.headline} {found.after:.4g}, with the run's own times {found.before:.4g}")
    if found.after > found.before:
        note(
            "on fresh noise the times found are no better than the run's own; more samples (--n) make the search surer"
        )
    say(f"{file}; next: suffuse sample {run} --preset {found.preset.name}")
