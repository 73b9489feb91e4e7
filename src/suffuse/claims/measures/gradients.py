"""Noise of the gradient of a run's own objective, with the coupling that it was trained with."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from suffuse.base.errors import UsageError
from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.data import Loader
from suffuse.objectives import Progress
from suffuse.training.frozen_parts import located
from suffuse.training.recipe import Recipe

__all__ = ["GradientNoise"]


class GradientNoise(MeasurePart):
    """Variance of the batches' gradients over the squared norm of their mean, at the averaged final weights.

    Values: gradient_variance (the mean squared distance of a batch's gradient to the mean one) and gradient_noise (that
    over the mean's squared norm, which itself holds the variance over the number of batches: it is taken off).

    Attributes:
        batches: How many, of the size of training.
    """

    kind: Literal["gradient_noise"] = "gradient_noise"
    batches: int = Field(default=64, ge=2)
    source: ClassVar[tuple[str, ...]] = ("suffuse.data.loader",)

    def of(self, bench: Bench) -> dict[str, float]:
        """With the noise levels of the last step of training."""
        run, recipe = bench.run, bench.run.recipe
        if recipe is None:
            raise UsageError(f"{run.folder} has no recipe, so its objective is not known")
        settings = recipe.training
        loader = Loader(
            bench.data,
            batch=settings.batch,
            seed=settings.seed + 1,
            flip=settings.flip,
            coupling=recipe.coupling,
            labelled=recipe.labelled,
        )
        device = run.model.device
        frozen = located(recipe, run.folder)
        assert isinstance(frozen, Recipe)
        objective = frozen.objective.build(run.model)
        if isinstance(objective, nn.Module):
            objective.to(device)
        parameters = list(run.model.parameters())
        progress = Progress(settings.steps - 1, settings.steps)
        total, squares = torch.zeros(sum(p.numel() for p in parameters)), 0.0
        requires = [p.requires_grad for p in parameters]
        for p in parameters:
            p.requires_grad = True
        try:
            for step in range(self.batches):
                losses = objective(run.model, loader.at(step).to(device), progress, loader.draws(step).to(device))
                loss = torch.stack([value.mean() for value in losses.values()]).sum()
                found = torch.autograd.grad(loss, parameters, allow_unused=True)
                both = zip(parameters, found, strict=True)
                flat = torch.cat([torch.zeros(p.numel()) if g is None else g.cpu().flatten() for p, g in both])
                total += flat
                squares += flat.double().square().sum().item()
        finally:
            for p, needed in zip(parameters, requires, strict=True):
                p.requires_grad = needed
        n = self.batches
        mean = (total / n).double().square().sum().item()
        variance = (squares / n - mean) * n / (n - 1)
        signal = max(mean - variance / n, 1e-30)
        return {"gradient_variance": variance, "gradient_noise": variance / signal}

    def smaller(self) -> GradientNoise:
        """Few batches."""
        return self.replace(batches=2)
