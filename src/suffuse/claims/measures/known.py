"""Measures on runs that learned data whose best network is known exactly: what the fit is short of."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field

from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys, normal
from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.data import LowRankMixture
from suffuse.models.exact_low_rank import ExactLowRank
from suffuse.models.told_optimum import ToldOptimum
from suffuse.process import eps_of, perturb
from suffuse.tasks.runs import OpenRun

__all__ = ["ExcessError"]

_BANDS = (0, 100, 400, 1000)  # indices near clean data, in the middle, near noise


def _density(run: OpenRun) -> LowRankMixture:
    source = run.recipe.data if run.recipe else None
    if not isinstance(source, LowRankMixture):
        raise UsageError(f"{run.folder} did not learn low_rank data, so its best network is not known")
    return source


class ExcessError(MeasurePart):
    """What a network's estimate of the noise is short of the best one's, squared, per element, in three bands of time.

    Values, by band: bayes@0 (error of the best network that is told every time), excess@0 (squared difference to that
    network), fit@0 (squared difference to the best network that is told what this one is told: what training left).

    Attributes:
        samples: Noisy samples in each band.
    """

    kind: Literal["excess"] = "excess"
    samples: int = Field(default=4000, ge=1)
    source: ClassVar[tuple[str, ...]] = ()

    def of(self, bench: Bench) -> dict[str, float]:
        """Against the density itself, not the points of the data."""
        model, density = bench.run.model, _density(bench.run)
        exact = ExactLowRank(model.path, *density.parameters())
        told = ToldOptimum(exact, prediction=model.prediction, time=model.time, sigma_data=model.sigma_data)
        x0 = density.sample(self.samples, seed=9)
        eps = normal(keys(9, "excess: eps", 0, torch.arange(self.samples)), (density.ambient,))
        values: dict[str, float] = {}
        for first, last in pairwise(_BANDS):
            t = (first + torch.arange(self.samples, dtype=torch.float64) * (last - first) / self.samples).floor()
            x = perturb(model.path, x0.double(), eps.double(), t)
            level = model.path.level(t, x)
            with torch.no_grad():
                mine = model.evaluate(x.float().to(model.device), t.to(model.device)).eps.double().cpu()
            best, alike = eps_of(x, exact.denoise(x, t), level), eps_of(x, told.denoise(x, t), level)
            values[f"bayes@{first}"] = (best - eps).square().mean().item()
            values[f"excess@{first}"] = (mine - best).square().mean().item()
            values[f"fit@{first}"] = (mine - alike).square().mean().item()
        return values

    def smaller(self) -> ExcessError:
        """Few samples."""
        return self.replace(samples=10)
