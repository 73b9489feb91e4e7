"""One of two processes of tests/training/test_world.py: trains with the other and writes down what it had.

Its arguments are a folder with `recipe.json`, and what to do; rank, world size and address come from the environment.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.weights import save_safetensors
from suffuse.data import Loader
from suffuse.training.codec_recipe import CodecRecipe
from suffuse.training.recipe import Recipe
from suffuse.training.run import Watcher, train
from suffuse.training.signals import Stopped
from suffuse.training.stages import load_stages, train_stages
from suffuse.training.trainer import Trainer
from suffuse.training.world import joined

SUMMED = 4  # steps whose gradients are written down


def gradients(recipe: Recipe, folder: Path) -> None:
    """Gradients after every step, the weights at the end, and this process's mean losses."""
    dataset, settings = recipe.data.load(), recipe.training
    with joined("cpu") as world:
        trainer = Trainer(
            recipe.resolve(dataset).model.build(seed=0), recipe.objective, settings, recipe.optimiser, world
        )
        loader = Loader(dataset, batch=settings.batch, seed=0, rank=world.rank, world=world.size)
        tensors: dict[str, torch.Tensor] = {}
        for step in range(SUMMED):
            report = trainer.train_step(loader.at(step), loader.draws(step))
            tensors |= {f"{step}/{name}": p.grad.clone() for name, p in trainer.named.items() if p.grad is not None}
            tensors[f"{step}/mean loss"] = world.mean(report["denoising"])
        tensors |= {f"end/{name}": p.detach() for name, p in trainer.named.items()}
        save_safetensors(folder / f"rank{world.rank}.safetensors", tensors)


def contested(folder: Path) -> None:
    """An autoencoder with a codebook of averages, and from the third of four steps on a discriminator."""
    recipe = parse(CodecRecipe, json.loads((folder / "codec.json").read_text()))
    dataset, settings = recipe.data.load(), recipe.training
    with joined("cpu") as world:
        model = recipe.resolve(dataset).model.build(seed=0)
        trainer = Trainer(model, recipe.objective, settings, recipe.optimiser, world)
        loader = recipe.loader(dataset, world)
        tensors: dict[str, torch.Tensor] = {}
        for step in range(SUMMED):
            report = trainer.train_step(loader.at(step), loader.draws(step))
            state = trainer.state()
            for group in ("model", "objective"):
                tensors |= {f"{step}/{group}/{name}": tensor.clone() for name, tensor in state[group].items()}
            tensors |= {f"{step}/{name}": report[name] for name in ("codebook_usage", "codebook_perplexity")}
        save_safetensors(folder / f"contested{world.rank}.safetensors", tensors)


def run(recipe: Recipe, folder: Path, stop_at: int | None) -> None:
    """A whole training; at `stop_at` SIGTERM reaches the second process alone."""
    rank = int(os.environ["RANK"])
    steps, notes, ended = [], [], "finished"

    def progress(step: int, total: int, numbers: dict[str, float]) -> None:
        steps.append(step)

    original = Trainer.train_step

    def train_step(self: Trainer, batch: object, draws: object) -> object:
        report = original(self, batch, draws)  # type: ignore[arg-type]
        if stop_at == self.step and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return report

    Trainer.train_step = train_step  # type: ignore[method-assign, assignment]
    try:
        train(recipe, "name", watcher=Watcher(note=notes.append, progress=progress))
    except Stopped as stopped:
        ended = str(stopped.exit_code)
    except UsageError as error:
        ended = str(error)
    finally:
        Trainer.train_step = original  # type: ignore[method-assign]
    told = {"ended": ended, "steps": len(steps), "notes": len(notes)}
    (folder / f"rank{rank}-{Path(recipe.out or '').name}.json").write_text(json.dumps(told))


def staged(folder: Path, *, resume: bool) -> None:
    """A recipe with stages: trained, or found finished."""
    said: list[str] = []
    stages = load_stages(str(folder / "stages.yaml"), [f"out={folder / 'staged'}"])
    done = train_stages(stages, "name", resume=resume, watcher=Watcher(note=said.append, begins=said.append))
    told = {"said": [line for line in said if line.startswith("stage")], "step": done.step, "first": done.first}
    (folder / f"rank{os.environ['RANK']}-staged{'-again' if resume else ''}.json").write_text(json.dumps(told))


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    recipe = parse(Recipe, json.loads((folder / "recipe.json").read_text()))
    ports = iter(sys.argv[2].split(","))
    jobs = (
        lambda: gradients(recipe, folder),
        lambda: run(recipe, folder, None),
        lambda: run(recipe.replace(out=str(folder / "stopped")), folder, 5),
        lambda: run(recipe.replace(out=str(folder / "odd"), training=recipe.training.replace(batch=9)), folder, None),
        lambda: contested(folder),
        lambda: staged(folder, resume=False),
        lambda: staged(folder, resume=True),
    )
    for job in jobs:
        os.environ["MASTER_PORT"] = next(ports)
        job()


if __name__ == "__main__":
    main()
