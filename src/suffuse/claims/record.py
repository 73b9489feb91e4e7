"""Where results and pictures go: beside the trained arms, or into the checkout's ledger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suffuse.base import files
from suffuse.base.errors import UsageError
from suffuse.claims.plots import draw, plot_file
from suffuse.claims.result import LEDGER, read, status, write
from suffuse.claims.tables import report
from suffuse.claims.verify import Checked

__all__ = ["Folders", "Shown", "ledger_folders", "show"]

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Folders:
    """Where a result is written.

    Attributes:
        results: JSON.
        plots: Pictures.
    """

    results: Path
    plots: Path


@dataclass(frozen=True)
class Shown:
    """A result, written and put into words.

    Attributes:
        text: State, verdicts, values, in Markdown.
        data: The result as plain data, with its state.
        files: What was written.
    """

    text: str
    data: dict[str, Any]  # Any: JSON values
    files: tuple[Path, ...]


def ledger_folders(store: Path, *, record: bool) -> Folders:
    """Folders of results: beside the arms, or those of the checkout.

    Raises:
        UsageError: The package was not installed from a checkout, so that there is no ledger to write into.
    """
    if not record:
        return Folders(store / "results", store / "plots")
    if not (_ROOT / "pyproject.toml").is_file() or not (_ROOT / "docs").is_dir():
        raise UsageError(
            "--record writes into the checkout's ledger, but suffuse is installed without one; leave it out"
        )
    return Folders(LEDGER, _ROOT / "docs" / "assets" / "claims")


def show(checked: Checked, folders: Folders) -> Shown:
    """Write a claim's result and its pictures, and read it back as it will be read by others."""
    path = write(folders.results, checked)
    found = status(checked.claim, checked.tier, folders.results)
    written = [path]
    files.make_folder(folders.plots)
    for plot in checked.experiment.plots:
        picture = plot_file(folders.plots, checked.claim.key, checked.tier, plot)
        if draw(plot, checked.experiment, found.values, picture):
            written.append(picture)
    return Shown(report(found), {**read(path), "state": found.state}, tuple(written))
