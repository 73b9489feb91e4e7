"""suffuse convert: models of other libraries, both ways."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from suffuse.cli.console import note, say
from suffuse.cli.options import Weights

__all__ = ["Target", "convert_command"]


class Target(StrEnum):
    """What to convert to."""

    diffusers = "diffusers"
    suffuse = "suffuse"


def convert_command(
    folder: Annotated[Path, typer.Argument(help="A run, or a diffusers model or pipeline folder.")],
    to: Annotated[Target, typer.Option("--to", help="What to convert to.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to make; FOLDER-<to> if left out.")] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="Side of the images of Wuerstchen's pipelines; 1024 if left out."),
    ] = None,
    weights: Weights = None,
) -> None:
    """Convert a model between suffuse and diffusers."""
    from suffuse.base.errors import UsageError
    from suffuse.interop.convert import to_diffusers, to_suffuse

    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give the folder of a model")
    target = out or folder.with_name(f"{folder.resolve().name}-{to.value}")
    if to is Target.suffuse:
        config = to_suffuse(folder, target, size=size, note=note)
        say(f"{target}: {config.network.kind} for samples of {'x'.join(map(str, config.shape))}")
    else:
        if size is not None:
            raise UsageError("--size says what a folder of diffusers does not; a run knows its own, leave it out")
        to_diffusers(folder, target, weights=weights, note=note)
        say(str(target))
