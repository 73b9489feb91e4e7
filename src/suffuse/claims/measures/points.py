"""Measures on runs that learned a mixture of Gaussians in a few dimensions: distances of laws, and of maps."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys, normal
from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.data import GaussianMixture
from suffuse.metrics import mode_coverage, sliced_wasserstein
from suffuse.models.exact import ExactMixture
from suffuse.process import PathPart, perturb
from suffuse.sampling import Consistency, Grid, Heun, Karras, Solver, sample
from suffuse.tasks.runs import OpenRun

__all__ = ["DenoisingErrorAt", "MapError", "PointDistances"]


def _density(run: OpenRun) -> GaussianMixture:
    source = run.recipe.data if run.recipe else None
    if not isinstance(source, GaussianMixture):
        raise UsageError(f"{run.folder} did not learn mixture data, so its law is not known")
    return source


class PointDistances(MeasurePart):
    """Sliced Wasserstein-2 distance of samples to the density, by evaluations: sliced_<solver>@1, and so on.

    Beside it spread@n (standard deviation of the samples over the data's: near 0 after a collapse) and imbalance@n
    (total variation between the shares of the modes and their weights).

    Attributes:
        solver: How the samples are drawn.
        grid: Its `steps` are replaced by the numbers of evaluations.
        nfe: Numbers of evaluations; the solver takes one a step.
        samples: How many.
    """

    kind: Literal["points"] = "points"
    solver: Solver = Consistency()
    grid: Grid = Karras(sigma_min=0.8, steps=1)
    nfe: tuple[int, ...] = (1, 2)
    samples: int = Field(default=10_000, ge=10)
    source: ClassVar[tuple[str, ...]] = ("suffuse.sampling.loop", "suffuse.sampling.grid", "suffuse.metrics.exact")

    def of(self, bench: Bench) -> dict[str, float]:
        """Against fresh points of the density, as many."""
        density, run = _density(bench.run), bench.run
        seed = 1 + (run.recipe.training.seed if run.recipe else 0)
        real = density.sample(self.samples, seed=1000 + seed).double()
        weights, means, stds = density.parameters()
        values: dict[str, float] = {}
        for nfe in self.nfe:
            made = sample(
                run.model,
                self.samples,
                shape=run.config.shape,
                solver=self.solver,
                grid=self.grid.replace(steps=nfe),
                seed=seed,
                batch=self.samples,
            )
            x = made.x.double().cpu()
            name = f"{self.solver.kind}@{nfe}"
            values[f"sliced_{name}"] = sliced_wasserstein(x, real, seed=0)
            values[f"spread_{name}"] = (x.std(0) / real.std(0)).mean().item()
            values[f"imbalance_{name}"] = mode_coverage(x, means, stds, weights).imbalance
        return values

    def smaller(self) -> PointDistances:
        """Few samples."""
        return self.replace(samples=50)


class MapError(MeasurePart):
    """Distance of one jump to where the exact trajectory ends: map_error, its mean over noises.

    The trajectory is solved with the density's own denoiser by Heun's method. Beside it mean_error: the same for
    whoever answers the data's mean.

    Attributes:
        samples: How many noises.
        steps: Of the reference solution.
    """

    kind: Literal["map_error"] = "map_error"
    samples: int = Field(default=2000, ge=1)
    steps: int = Field(default=256, ge=2)
    source: ClassVar[tuple[str, ...]] = ("suffuse.sampling.loop", "suffuse.sampling.grid", "suffuse.models.exact")

    def of(self, bench: Bench) -> dict[str, float]:
        """In units of the data."""
        run, density = bench.run, _density(bench.run)
        exact = ExactMixture(run.model.path, *density.parameters())
        grid = Karras(steps=self.steps, end="t_min")
        ends = sample(
            exact, self.samples, shape=run.config.shape, solver=Heun(), grid=grid, seed=9, batch=self.samples,
            dtype=torch.float64,
        ).x  # fmt: skip
        jump = sample(
            run.model, self.samples, shape=run.config.shape, solver=Consistency(), grid=Karras(sigma_min=1.0, steps=1),
            seed=9, batch=self.samples,
        ).x  # fmt: skip
        return {
            "map_error": (jump.double().cpu() - ends).norm(dim=1).mean().item(),
            "mean_error": (ends.mean(0) - ends).norm(dim=1).mean().item(),
        }

    def smaller(self) -> MapError:
        """Few noises in few steps."""
        return self.replace(samples=10, steps=4)


class DenoisingErrorAt(MeasurePart):
    """Mean squared error of the estimate of data at one noise level, over the best one's: denoising_error.

    Attributes:
        r: sigma / alpha.
        samples: How many.
    """

    kind: Literal["denoising_error"] = "denoising_error"
    r: float = Field(default=0.2, gt=0)
    samples: int = Field(default=10_000, ge=1)
    source: ClassVar[tuple[str, ...]] = ("suffuse.models.exact",)

    def of(self, bench: Bench) -> dict[str, float]:
        """Of the run's own estimate, endpoint or mean."""
        model, density = bench.run.model, _density(bench.run)
        x0 = density.sample(self.samples, seed=11)
        eps = normal(keys(11, "denoising error", 0, torch.arange(self.samples)), tuple(x0.shape[1:]))
        t = _time(model.path, self.r).expand(self.samples)
        x = perturb(model.path, x0, eps, t)
        exact = ExactMixture(model.path, *density.parameters())
        with torch.no_grad():
            mine = model.denoise(x.to(model.device), t.to(model.device)).double().cpu()
        error, best = ((estimate - x0).square().mean().item() for estimate in (mine, exact.denoise(x.double(), t)))
        return {"denoising_error": error / best}

    def smaller(self) -> DenoisingErrorAt:
        """Few samples."""
        return self.replace(samples=10)


def _time(path: PathPart, r: float) -> Tensor:
    return path.t_of(-torch.tensor([r], dtype=torch.float64).log())
