"""suffuse train: a recipe, or a run to go on with."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suffuse.cli.console import bar, note, say

if TYPE_CHECKING:
    from suffuse.training.recipes import AnyRecipe
    from suffuse.training.stages import Staged

__all__ = ["train_command"]


def train_command(
    recipe: Annotated[
        str, typer.Argument(help="Name of a recipe (see `suffuse list recipes`), a YAML file, or a run.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value: data size steps (or minutes) batch seed out device precision, or any dotted key."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the whole recipe and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print facts as JSON.")] = False,
) -> None:
    """Train a model."""
    from suffuse.training.recipe_files import dump_recipe, dump_tree
    from suffuse.training.run import Watcher, train
    from suffuse.training.stages import Staged, train_stages

    wanted, name = _wanted(recipe, overrides or [])
    if dry_run:
        wanted.check()
        plain = dump_tree(wanted.dump()) if isinstance(wanted, Staged) else dump_recipe(wanted)
        say(plain.rstrip())
        return
    with bar("training", _every(wanted)) as progress:

        def show(step: int, total: int, numbers: dict[str, float]) -> None:
            text = ""
            if numbers:
                text = (
                    f"loss {numbers['loss']:.4f}  {numbers['images_per_second']:.0f} img/s  "
                    f"data wait {numbers['data_wait']:.0%}"
                )
            progress.show(step, total, text)

        def begins(text: str) -> None:
            progress.rename(text)
            note(text)

        watcher = Watcher(note=note, progress=show, begins=begins)
        if isinstance(wanted, Staged):
            done = train_stages(wanted, name, resume=resume, watcher=watcher)
        else:
            done = train(wanted, name, resume=resume, watcher=watcher)
    if not done.first:
        return
    if as_json:
        facts = {"folder": str(done.folder), "step": done.step, "seconds": done.seconds}
        facts["loss"] = None if math.isnan(done.loss) else done.loss
        say(json.dumps(facts))
        return
    loss = "nothing was left to do" if math.isnan(done.loss) else f"loss {done.loss:.4f}"
    say(f"{done.folder}: {done.step} steps, {done.seconds:.0f} s in this session, {loss}")
    use = _USES.get("generator" if isinstance(wanted, Staged) else wanted.learns, "sample {} --n 16")
    folder = shlex.quote(str(done.folder))
    say(f"next: suffuse {use.format(folder)}   or   suffuse eval {folder}")


_USES = {"codec": "train RECIPE codec.run={}", "alignment": "train RECIPE conditioner.run={}"}


def _wanted(recipe: str, overrides: list[str]) -> tuple[AnyRecipe | Staged, str]:
    """The recipe, or the stages, that are asked for, and the name of their run."""
    from suffuse.training.frozen_parts import located
    from suffuse.training.recipe_files import load_recipe
    from suffuse.training.run_files import RECIPE_FILE, STAGES_FILE
    from suffuse.training.stages import has_stages, load_stages

    folder = Path(recipe)
    for file in (STAGES_FILE, RECIPE_FILE):
        if (folder / file).is_file():
            break
    else:
        return (load_stages if has_stages(recipe) else load_recipe)(recipe, overrides), Path(recipe).stem
    elsewhere = any(pair.startswith("out=") for pair in overrides)
    if file == STAGES_FILE:
        staged = load_stages(str(folder / file), overrides)
        return staged if elsewhere else replace(staged, out=str(folder)), folder.name
    wanted = load_recipe(str(folder / file), overrides)
    # It may have been moved since; another run of this recipe asks the frozen models that this one keeps.
    return located(wanted, folder) if elsewhere else wanted.replace(out=str(folder)), folder.name


def _every(wanted: AnyRecipe | Staged) -> int:
    """Steps between the lines of a bar where there is no terminal."""
    from suffuse.training.stages import Staged

    recipes = wanted.stages.values() if isinstance(wanted, Staged) else (wanted,)
    return min(max(recipe.training.log_every, recipe.training.steps // 20) for recipe in recipes)
