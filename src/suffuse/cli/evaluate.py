"""suffuse eval: how good a run is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from suffuse.cli.console import bar, note, say
from suffuse.cli.options import Batch, Device, GridName, Guide, Nfe, Precision, PresetName, SolverName, Steps, Weights

if TYPE_CHECKING:
    from suffuse.tasks.runs import OpenRun
    from suffuse.training.settings import SamplingSettings

__all__ = ["eval_command"]


def eval_command(
    run: Annotated[str, typer.Argument(help="Folder of a run, or owner/name on the Hub.")],
    data: Annotated[str | None, typer.Option("--data", help="Reference data; the run's own if left out.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="How many samples; the recipe's number if left out.")] = None,
    nfe: Nfe = None,
    steps: Steps = None,
    solver: SolverName = None,
    grid: GridName = None,
    cfg: Guide = None,
    preset: PresetName = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the samples.")] = None,
    batch: Batch = None,
    precision: Precision = None,
    features: Annotated[
        str, typer.Option("--features", help="trained (on the reference data), inception or inception:WEIGHTS_FILE.")
    ] = "trained",
    weights: Weights = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
) -> None:
    """Measure a run: distances, precision and recall, memorisation; writes evaluation/ and report.html.

    Of an autoencoder: what comes back of images. Of an alignment: how often captions and images find each other.
    """
    from suffuse.cli.options import fields_of
    from suffuse.tasks.align import is_alignment
    from suffuse.tasks.reconstruct import is_codec
    from suffuse.tasks.runs import Wanted, open_run, settle

    ways = {"--nfe": nfe, "--steps": steps, "--solver": solver, "--grid": grid, "--cfg": cfg, "--preset": preset}
    ways |= {"--batch": batch, "--precision": precision}
    if is_codec(run):
        _refuse_ways(f"{run} is an autoencoder", ways)
        _eval_codec(run, data, n, seed, features, weights, device, as_json)
        return
    if is_alignment(run):
        _refuse_ways(f"{run} is an alignment", {**ways, "--features": None if features == "trained" else features})
        _eval_alignment(run, data, n, seed, weights, device, as_json)
        return
    opened = open_run(run, weights=weights, device=device)
    asked = Wanted(
        solver=fields_of(solver),
        grid=fields_of(grid),
        nfe=nfe,
        steps=steps,
        cfg=cfg,
        batch=batch,
        precision=precision,
        preset=preset,
    )
    _eval_model(opened, settle(opened, asked), data, n, seed, features, as_json)


def _eval_model(
    run: OpenRun,
    settings: SamplingSettings,
    data: str | None,
    n: int | None,
    seed: int | None,
    features: str,
    as_json: bool,
) -> None:
    """Samples against reference data."""
    from suffuse.tasks.evaluate import evaluate, figures_table
    from suffuse.tasks.judge import judge_of
    from suffuse.tasks.report import write_report
    from suffuse.tasks.runs import other_data
    from suffuse.training.settings import EvaluationSettings

    plan = run.recipe.evaluation if run.recipe else EvaluationSettings()
    count = plan.samples if n is None else n
    judge = judge_of(run, samples=count, source=other_data(run, data), features=features, note=note)
    with bar("sampling") as progress:
        found = evaluate(
            run,
            judge,
            settings,
            samples=count,
            seed=plan.seed if seed is None else seed,
            nearest=plan.nearest,
            on_samples=lambda done: progress.show(done, count),
        )
    page = write_report(run.folder)
    say(json.dumps(found.dump()) if as_json else figures_table(found))
    note(f"wrote {run.folder / 'evaluation'} and {page}")


def _refuse_ways(what: str, ways: Mapping[str, object]) -> None:
    """Refuse ways to sample for a run that is not sampled."""
    from suffuse.base.errors import UsageError

    if given := [name for name, value in ways.items() if value is not None]:
        raise UsageError(f"{what}, which is not sampled; leave {given[0]} out")


def _eval_alignment(
    name: str, data: str | None, n: int | None, seed: int | None, weights: str | None, device: str, as_json: bool
) -> None:
    """Captions and images that look for each other, for a run of an alignment."""
    from suffuse.base.errors import UsageError
    from suffuse.tasks.align import evaluate_alignment, open_alignment
    from suffuse.tasks.runs import reference_data
    from suffuse.training.settings import EvaluationSettings

    opened = open_alignment(name, weights=weights, device=device)
    assert opened.model.config is not None
    source = opened.recipe.data if data is None and opened.recipe else None
    if data is not None:
        source = reference_data(data, opened.model.config.shape)
    if source is None:
        raise UsageError(f"{name} does not say what it was trained on; give --data")
    plan = opened.recipe.evaluation if opened.recipe else EvaluationSettings()
    count, of = plan.samples if n is None else n, plan.seed if seed is None else seed
    found = evaluate_alignment(opened, source, samples=count, seed=of)
    say(json.dumps(found.dump()) if as_json else found.table())
    note(f"wrote {opened.folder / 'evaluation'}")


def _eval_codec(
    name: str,
    data: str | None,
    n: int | None,
    seed: int | None,
    features: str,
    weights: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Images there and back, for a run of an autoencoder."""
    from suffuse.base.errors import UsageError
    from suffuse.tasks.judge import ImageJudge, extractor_of
    from suffuse.tasks.reconstruct import check_sent, evaluate_codec, open_codec
    from suffuse.tasks.runs import reference_data
    from suffuse.training.settings import EvaluationSettings

    opened = open_codec(name, weights=weights, device=device)
    source = opened.recipe.data if data is None and opened.recipe else None
    if data is not None:
        source = reference_data(data, opened.config.shape)
    if source is None:
        raise UsageError(f"{name} does not say what it was trained on; give --data")
    plan = opened.recipe.evaluation if opened.recipe else EvaluationSettings()
    dataset, count = source.load(), plan.samples if n is None else n
    check_sent(opened, dataset, count)
    judge = ImageJudge(dataset, extractor_of(features, dataset, note=note).to(opened.codec.device), 10_000)
    found = evaluate_codec(opened, judge, samples=count, seed=plan.seed if seed is None else seed)
    say(json.dumps(found.dump()) if as_json else found.table())
    note(f"wrote {opened.folder / 'evaluation'}")
