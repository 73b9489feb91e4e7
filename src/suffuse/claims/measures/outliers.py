"""Measures on runs that learned a cloud with outliers: how well the inliers are met, and what became of the rest."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from suffuse.base.errors import UsageError
from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.data import OutlierMixture
from suffuse.metrics import mode_coverage, sliced_wasserstein
from suffuse.sampling import Consistency, Grid, Karras, sample

__all__ = ["InlierDistances"]

_FAR = 5.0  # standard deviations of the cloud beyond which a coordinate makes an outlier


class InlierDistances(MeasurePart):
    """Sliced Wasserstein-2 distance of the samples that are no outliers to the cloud without outliers, by evaluations.

    Values: inliers@1, inliers@2, ...; outliers@n is the share of outliers among the samples over that of the data (1 is
    right, 0 forgets them; absent when the data have none), imbalance@n the total variation of the shares of the modes.

    Attributes:
        grid: Its `steps` are replaced by the numbers of evaluations.
        nfe: Numbers of evaluations.
        samples: How many.
    """

    kind: Literal["inliers"] = "inliers"
    grid: Grid = Karras(sigma_min=0.8, steps=1)
    nfe: tuple[int, ...] = (1, 2)
    samples: int = Field(default=10_000, ge=10)
    source: ClassVar[tuple[str, ...]] = ("suffuse.sampling.loop", "suffuse.sampling.grid", "suffuse.metrics.exact")

    def of(self, bench: Bench) -> dict[str, float]:
        """Against fresh points."""
        run = bench.run
        source = run.recipe.data if run.recipe else None
        if not isinstance(source, OutlierMixture):
            raise UsageError(f"{run.folder} did not learn outliers data, so there is no cloud to hold it against")
        seed = 1 + (run.recipe.training.seed if run.recipe else 0)
        clean = source.replace(share=0.0).sample(self.samples, seed=1000 + seed).double()
        data = source.sample(self.samples, seed=1000 + seed).double()
        limit = _FAR * source.std
        share = (data.abs() > limit).any(1).double().mean().item()
        stds = source.component_weights.new_full((source.components,), source.component_std)
        values: dict[str, float] = {}
        for nfe in self.nfe:
            made = sample(
                run.model,
                self.samples,
                shape=run.config.shape,
                solver=Consistency(),
                grid=self.grid.replace(steps=nfe),
                seed=seed,
                batch=self.samples,
            )
            x = made.x.double().cpu()
            far = (x.abs() > limit).any(1)
            values[f"inliers@{nfe}"] = sliced_wasserstein(x[~far], clean, seed=0)
            values[f"imbalance@{nfe}"] = mode_coverage(x[~far], source.means, stds, source.component_weights).imbalance
            if source.share:
                values[f"outliers@{nfe}"] = far.double().mean().item() / share
        return values

    def smaller(self) -> InlierDistances:
        """Few samples."""
        return self.replace(samples=200)
