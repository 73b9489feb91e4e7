"""suffuse train: a recipe, or a run to go on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from suffuse.cli.console import bar, note, say

__all__ = ["train_command"]


def train_command(
    recipe: Annotated[
        str, typer.Argument(help="Name of a recipe (see `suffuse list recipes`), a YAML file, or a run.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value: data size steps batch seed out device precision, or any dotted key."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the whole recipe and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print facts as JSON.")] = False,
) -> None:
    """Train a model."""
    from suffuse.training.frozen_parts import located
    from suffuse.training.recipe_files import dump_recipe, load_recipe
    from suffuse.training.run import RECIPE_FILE, Watcher, check_recipe, train

    folder = Path(recipe)
    is_run = (folder / RECIPE_FILE).is_file()
    source = str(folder / RECIPE_FILE) if is_run else recipe
    wanted = load_recipe(source, overrides or ())
    if is_run and not any(pair.startswith("out=") for pair in overrides or ()):
        wanted = wanted.replace(out=str(folder))  # it may have been moved since
    elif is_run:
        wanted = located(wanted, folder)  # another run of this recipe asks the frozen models that this one keeps
    if dry_run:
        check_recipe(wanted)
        say(dump_recipe(wanted).rstrip())
        return
    name = folder.name if is_run else Path(recipe).stem
    every = max(wanted.training.log_every, wanted.training.steps // 20)
    with bar("training", every) as progress:

        def show(step: int, total: int, numbers: dict[str, float]) -> None:
            text = ""
            if numbers:
                text = (
                    f"loss {numbers['loss']:.4f}  {numbers['images_per_second']:.0f} img/s  "
                    f"data wait {numbers['data_wait']:.0%}"
                )
            progress.show(step, total, text)

        done = train(wanted, name, resume=resume, watcher=Watcher(note=note, progress=show))
    if not done.first:
        return
    if as_json:
        facts = {"folder": str(done.folder), "step": done.step, "seconds": done.seconds, "loss": done.loss}
        say(json.dumps(facts))
        return
    say(f"{done.folder}: {done.step} steps, {done.seconds:.0f} s in this session, loss {done.loss:.4f}")
    use = "train RECIPE codec.run={}" if wanted.learns == "codec" else "sample {} --n 16"
    say(f"next: suffuse {use.format(done.folder)}   or   suffuse eval {done.folder}")
