"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

__all__ = [
    "Batch",
    "Device",
    "GridName",
    "Guide",
    "Height",
    "Nfe",
    "PlanName",
    "Precision",
    "PresetName",
    "SolverName",
    "Steps",
    "Weights",
    "Width",
    "fields_of",
    "numbers_of",
    "several_of",
]

Nfe = Annotated[int | None, typer.Option("--nfe", help="Network evaluations per sample, guidance included.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Solver steps, instead of --nfe.")]
SolverName = Annotated[str | None, typer.Option("--solver", help="Kind, or fields as YAML: '{kind: ddim, eta: 1}'.")]
GridName = Annotated[str | None, typer.Option("--grid", help="Kind, or fields as YAML: '{kind: karras, rho: 7}'.")]
Guide = Annotated[float | None, typer.Option("--cfg", help="Scale of classifier-free guidance; 1 is none.")]
PlanName = Annotated[
    str | None, typer.Option("--plan", help="What the network leaves out: kind, or '{kind: deepcache, every: 3}'.")
]
PresetName = Annotated[
    str | None, typer.Option("--preset", help="A way of sampling that `suffuse tune` found; other options change it.")
]
Batch = Annotated[int | None, typer.Option("--batch", help="Samples at a time; changes nothing else.")]
Precision = Annotated[str | None, typer.Option("--precision", help="Of the network: float32 or bfloat16.")]
Height = Annotated[
    int | None, typer.Option("--height", help="Of the pictures, in pixels; the run's own if left out.", min=1)
]
Width = Annotated[int | None, typer.Option("--width", help="As --height.", min=1)]
Weights = Annotated[str | None, typer.Option("--weights", help="Which average; the primary one if left out.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


def fields_of(text: str | None) -> str | dict[str, Any] | None:  # Any: YAML values
    """A part from the command line: a bare kind, or its fields as YAML.

    Raises:
        UsageError: Not YAML.
    """
    import yaml

    from suffuse.base.errors import UsageError

    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"{text!r} is not YAML; write for example '{{kind: ddim, eta: 1}}'") from None
    return dict(fields)


def several_of(text: str) -> tuple[str | dict[str, Any], ...]:  # Any: YAML values
    """Parts separated by commas, each a bare kind or its fields as YAML.

    Raises:
        UsageError: Not YAML.
    """
    pieces, depth = [""], 0
    for letter in text:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    found = (fields_of(piece.strip()) for piece in pieces if piece.strip())
    return tuple(part for part in found if part is not None)


def numbers_of(text: str, what: str) -> tuple[int, ...]:
    """Numbers separated by commas.

    Raises:
        UsageError: Something else.
    """
    from suffuse.base.errors import UsageError

    try:
        return tuple(int(piece) for piece in text.split(",") if piece.strip())
    except ValueError:
        raise UsageError(f"{what} {text!r} must be whole numbers separated by commas, like 5,10,20") from None
