"""Distance of samples to the data, by solver and cost."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.process import TimeCondition
from suffuse.sampling import DDIM, Solver, Uniform
from suffuse.tasks.generate import generate
from suffuse.tasks.judge import ruler_of
from suffuse.training.recipe import SamplingSettings

__all__ = ["Distance"]


class Distance(MeasurePart):
    """Frechet distance of samples to the training data, in the features of a network trained on these.

    Attributes:
        solver: How the samples are drawn, on evenly spaced times.
        nfe: Network evaluations a sample.
        samples: How many.
        seed: Of the samples.
        told: What the network is told while sampling, where that shall differ from training.
    """

    kind: Literal["distance"] = "distance"
    solver: Solver = DDIM()
    nfe: int = Field(default=10, ge=1)
    samples: int = Field(default=1000, ge=6)
    seed: int = 1
    told: TimeCondition | None = None
    judged: ClassVar[bool] = True
    source: ClassVar[tuple[str, ...]] = (
        "suffuse.sampling.loop",
        "suffuse.sampling.grid",
        "suffuse.metrics.frechet",
        "suffuse.metrics.features",
        "suffuse.training.extractor",
    )

    @property
    def name(self) -> str:
        """Of the value: distance_ddim@10."""
        changed = "" if self.told is None else f"_told_{self.told.kind}"
        return f"distance_{self.solver.kind}{changed}@{self.nfe}"

    def of(self, bench: Bench) -> dict[str, float]:
        """One distance."""
        run, settings = bench.run, SamplingSettings(solver=self.solver, grid=Uniform(steps=self.nfe), batch=500)
        trained = run.model.time
        try:
            run.model.time = self.told or trained
            made = generate(run, self.samples, settings, seed=self.seed)
        finally:
            run.model.time = trained
        return {self.name: bench.judge().distance(made, ruler_of(run, settings, made, self.seed)).value}

    def smaller(self) -> Distance:
        """Few samples in few steps."""
        return self.replace(samples=12, nfe=min(self.nfe, 3))
