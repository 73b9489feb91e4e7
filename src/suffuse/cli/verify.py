"""suffuse verify: run the experiment behind a claim, and say whether it holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suffuse.cli.console import bar, note, say
from suffuse.cli.options import Device

if TYPE_CHECKING:
    from suffuse.claims.protocol import Claim, Tier
    from suffuse.claims.verify import Settings

__all__ = ["TierName", "verify_command"]


class TierName(StrEnum):
    """How far to go."""

    small = "small"
    long = "long"
    gpu = "gpu"
    full = "full"


def verify_command(
    name: Annotated[str, typer.Argument(help="A claim, a technique, or all; see `suffuse list claims`.")],
    trial_overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Overrides of a trial.")
    ] = None,
    tier: Annotated[
        TierName, typer.Option("--tier", help="small: 20 min on 2 cores; long: 2 h; gpu: one GPU; full: the paper's.")
    ] = TierName.small,
    data: Annotated[Path | None, typer.Option("--data", help="File of the data, for tiers that need one.")] = None,
    store: Annotated[
        Path, typer.Option("--store", help="Folder of trained arms and figures; what is there is not made again.")
    ] = Path("runs/ledger"),
    jobs: Annotated[int | None, typer.Option("--jobs", help="Processes of one thread each; one a core.")] = None,
    device: Device = "auto",
    trial: Annotated[
        bool, typer.Option("--trial", help="Start every arm for 20 steps; its figures mean nothing.")
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Write results and pictures into the checkout's ledger.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--recheck", help="Run one seed of every arm of recorded results again, and compare.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
) -> None:
    """Run the checks of a paper's claims: train the arms, measure, and hold the figures against the criteria.

    A check that was stopped goes on where it was; arms that other claims have trained are used again.
    """
    from suffuse.base.errors import UsageError
    from suffuse.claims.ledger import experiments_of, find_claims
    from suffuse.claims.record import ledger_folders, show
    from suffuse.claims.verify import Settings, default_jobs, on_gpu, verify

    claims = find_claims(name)
    _check_trial(trial_overrides, trial=trial, record=record, again=again)
    if data is not None and not any(experiment.data for experiment in experiments_of(claims, tier.value)):
        raise UsageError(f"--data {data} is not used: {name} in tier {tier.value} brings its own data; leave it out")
    folders = ledger_folders(store, record=record)
    count = default_jobs(device) if jobs is None else jobs
    if count < 1:
        raise UsageError(f"jobs is {count}; it must be at least 1")
    settings = Settings(
        store=store,
        data=data,
        device=device,
        jobs=count,
        threads=None if on_gpu(device) else 1,
        trial=("steps=20", "batch=8", *(trial_overrides or ())) if trial else None,
    )
    if again:
        _recheck(claims, tier.value, settings, folders.results, as_json=as_json)
        return
    with bar("arms", every=1) as progress:
        checked = verify(claims, tier.value, settings, note=note, progress=progress.show)
    if trial:
        if as_json:
            say(json.dumps([{"claim": item.claim.key, "tier": item.tier, "trial": True} for item in checked]))
            return
        say(f"{len(checked)} experiments of tier {tier.value} start and run; a trial's figures mean nothing")
        return
    shown = [show(item, folders) for item in checked]
    if as_json:
        say(json.dumps([item.data for item in shown]))
        return
    for item in shown:
        say(f"{item.text}\n")
        for file in item.files:
            note(f"wrote {file}")


def _check_trial(overrides: Sequence[str] | None, *, trial: bool, record: bool, again: bool) -> None:
    """Refuse what would change a protocol, or take a trial's figures for figures."""
    from suffuse.base.errors import UsageError

    if overrides and not trial:
        raise UsageError(f"{overrides[0]!r} would change a fixed protocol; overrides are for --trial alone")
    if trial and record:
        raise UsageError("figures of a trial mean nothing and are not recorded; leave out --trial or --record")
    if trial and again:
        raise UsageError("a trial's figures cannot be compared with recorded ones; leave out --trial or --recheck")


def _recheck(claims: Sequence[Claim], tier: Tier, settings: Settings, folder: Path, *, as_json: bool) -> None:
    """Compare, tell, and leave with 1 when figures differ."""
    from suffuse.claims.recheck import recheck

    with bar("arms", every=1) as progress:
        found = recheck(claims, tier, settings, folder, note=note, progress=progress.show)
    if as_json:
        rows = [{"claim": item.claim.key, "tier": item.tier, "differing": list(item.differing)} for item in found]
        say(json.dumps(rows))
    else:
        for item in found:
            say(item.text)
    if any(item.differing for item in found):
        raise typer.Exit(1)
