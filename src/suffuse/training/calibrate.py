"""A budget of time turned into steps, once: curricula and resumes then know their length to the step."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from suffuse.data import Buckets, Dataset
from suffuse.training.bucketed import main_of
from suffuse.training.frozen_parts import located
from suffuse.training.handed import objective_of
from suffuse.training.recipes import AnyRecipe, AnyResolved
from suffuse.training.trainer import Trainer
from suffuse.training.world import World

__all__ = ["calibrated"]

_WARM, _LEAST, _MOST = 3, 5, 40  # steps that are not timed, and how many are
_SECONDS = 6.0  # that timing may take
_SHARE = 0.94  # of the budget that is spent on steps; the rest is for checkpoints and what is made of them


def calibrated(resolved: AnyResolved, samples: Dataset | Buckets, folder: Path, world: World) -> tuple[AnyRecipe, str]:
    """The recipe with `minutes` turned into `steps` on this machine, and a sentence about it.

    A model of the same parts takes a few steps and is thrown away; the run itself starts afresh, so that a run of a
    budget is the run of its number of steps.

    Args:
        resolved: With a budget of minutes.
        samples: What is learned from.
        folder: Of the run, where its frozen models are.
        world: All processes; they agree on one number.
    """
    recipe = resolved.recipe
    minutes = recipe.training.minutes
    assert minutes is not None
    settings = recipe.training
    model = resolved.model.build(seed=settings.seed)
    objective = objective_of(located(recipe, folder), main_of(samples), world)
    trainer = Trainer(model, objective, settings, recipe.optimiser, world)
    loader = recipe.loader(samples, world)
    with loader.stream() as batches:
        began, timed = time.perf_counter(), 0
        for step in range(_WARM + _MOST):
            if step == _WARM:
                _wait(world)
                began = time.perf_counter()
            trainer.train_step(next(batches), loader.draws(step))
            timed = step + 1 - _WARM
            if world.any(timed >= _LEAST and time.perf_counter() - began > _SECONDS):
                break
        _wait(world)
    seconds = world.mean(torch.tensor((time.perf_counter() - began) / timed, dtype=torch.float64)).item()
    steps = max(1, int(_SHARE * 60 * minutes / seconds))
    told = f"{minutes:g} minutes are {steps} steps here, at {1000 * seconds:.1f} ms each; a resume keeps that number"
    return recipe.replace(training=settings.replace(steps=steps, minutes=None)), told


def _wait(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
