"""The table of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from suffuse import __version__
from suffuse.cli import compare, convert, evaluate, listing, sample, train, tune, verify

__all__ = ["app"]

app = typer.Typer(
    name="suffuse",
    help="Train, sample, evaluate and compare diffusion, flow and consistency models, and check papers' claims.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"suffuse {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Train, sample, evaluate and compare diffusion, flow and consistency models, and check papers' claims."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("list")(listing.list_command)
app.command("train")(train.train_command)
app.command("sample")(sample.sample_command)
app.command("eval")(evaluate.eval_command)
app.command("compare")(compare.compare_command)
app.command("tune")(tune.tune_command)
app.command("verify")(verify.verify_command)
app.command("convert")(convert.convert_command)
