"""suffuse sample: pictures from a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suffuse.cli.console import bar, note, say
from suffuse.cli.options import (
    Batch,
    Device,
    GridName,
    Guide,
    Height,
    Nfe,
    PlanName,
    Precision,
    PresetName,
    SolverName,
    Steps,
    Weights,
    Width,
)

if TYPE_CHECKING:
    from suffuse.tasks.generate import Generated
    from suffuse.tasks.runs import OpenRun
    from suffuse.training.settings import SamplingSettings

__all__ = ["sample_command"]


def sample_command(
    run: Annotated[str, typer.Argument(help="Folder of a run, or owner/name on the Hub.")],
    n: Annotated[int, typer.Option("--n", help="How many samples, of each prompt if there are any.")] = 16,
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
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="What to draw; several make a row of the sheet each.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="Text file with a prompt a line.")] = None,
    negative: Annotated[str | None, typer.Option("--negative", help="What guidance (--cfg) leads away from.")] = None,
    height: Height = None,
    width: Width = None,
    seed: Annotated[int, typer.Option("--seed", help="With its number, it determines each sample.")] = 0,
    first: Annotated[int, typer.Option("--first", min=0, max=2**62, help="Number of the first sample.")] = 0,
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
    from suffuse.tasks.pictures import save_each, save_sheet
    from suffuse.tasks.prompts import read_prompts
    from suffuse.tasks.runs import Wanted, open_run, settle

    opened = open_run(run, weights=weights, device=device).sized(height, width)
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
    texts = (*(prompt or ()), *(read_prompts(prompts) if prompts is not None else ()))
    folder = out or opened.folder / "samples"
    files.make_folder(folder)
    made = _drawn(opened, settings, texts, label, negative, n=n, seed=seed, first=first)
    name = f"seed-{seed}" if height is None and width is None else f"seed-{seed}-{opened.shape[2]}x{opened.shape[1]}"
    sheet = folder / f"{name}-{first}-{first + n - 1}.png"
    save_sheet(made.x, sheet, columns=n if texts else None)
    if separate:
        save_each(made.x, folder, name, first)
    if as_json:
        facts = {"file": str(sheet), "samples": len(made.x), "prompts": texts, "first": first, "seed": seed}
        say(json.dumps({**facts, **_facts(opened, settings, made)}))
        return
    say(str(sheet))
    if time:
        say(_cost(made, settings))


def _drawn(
    run: OpenRun,
    settings: SamplingSettings,
    texts: tuple[str, ...],
    label: str | None,
    negative: str | None,
    *,
    n: int,
    seed: int,
    first: int,
) -> Generated:
    """Samples, n of each text if there are any."""
    from suffuse.base.errors import UsageError
    from suffuse.tasks.cascade import text_reader
    from suffuse.tasks.generate import Asked, generate_each
    from suffuse.tasks.prompts import prompt_conditions

    told = (*texts, *(() if negative is None else (negative,)))
    if told and (reader := text_reader(run)) is not None:
        prompt_conditions(reader, told, note)  # says which are cut, once
    if negative is not None and settings.guidance.most_evaluations == 1:
        raise UsageError("a negative prompt acts through guidance, but there is none; give a scale, such as --cfg 4")
    wishes = [Asked(label, (text,), negative) for text in texts] or [Asked(label, (), negative)]
    total = n * len(wishes)
    with bar("sampling") as progress:

        def shown(done: int) -> None:
            progress.show(done, total)

        return generate_each(run, n, settings, wishes, seed=seed, first=first, on_samples=shown)


def _cost(made: Generated, settings: SamplingSettings) -> str:
    speed = f"{made.seconds:.2f} s, {len(made.x) / made.seconds:.1f} samples/s"
    return f"{speed}, NFE {made.nfe:g}, solver {settings.solver.kind}"


def _facts(run: OpenRun, settings: SamplingSettings, made: Generated) -> dict[str, object]:
    """How the samples were made, in words."""
    from suffuse.tasks.runs import named

    parts = {joint: named(getattr(settings, joint)) for joint in ("solver", "grid", "guidance", "plan")}
    facts = {"shape": run.shape, "weights": run.config.weights, "nfe": made.nfe, "seconds": made.seconds}
    return {**facts, "precision": settings.precision, **parts}
