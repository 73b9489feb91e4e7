"""Distance of samples to the data, by solver and cost."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.process import TimeCondition
from suffuse.sampling import DDIM, Grid, Solver, Uniform
from suffuse.tasks.generate import generate
from suffuse.tasks.judge import ruler_of
from suffuse.training.settings import SamplingSettings

__all__ = ["Distance"]


class Distance(MeasurePart):
    """Frechet distance of samples to the training data, in the features of a network trained on these.

    Attributes:
        solver: How the samples are drawn; as the run's recipe says when None, solver and grid.
        grid: At which times, its `steps` replaced by `nfe`; evenly spaced times when None.
        nfe: Network evaluations a sample.
        samples: How many. They are drawn with another seed for every seed of training, the same for all arms.
        told: What the network is told while sampling, where that shall differ from training.
    """

    kind: Literal["distance"] = "distance"
    solver: Solver | None = DDIM()
    grid: Grid | None = None
    nfe: int = Field(default=10, ge=1)
    samples: int = Field(default=1000, ge=6)
    told: TimeCondition | None = None
    judged: ClassVar[bool] = True
    source: ClassVar[tuple[str, ...]] = (
        "suffuse.sampling.loop",
        "suffuse.sampling.grid",
        "suffuse.claims.judging",
        "suffuse.tasks.generate",
        "suffuse.tasks.judge",
        "suffuse.training.sample_conditions",
    )

    @property
    def name(self) -> str:
        """Of the value: distance_ddim@10."""
        changed = "" if self.told is None else f"_told_{self.told.kind}"
        kind = "own" if self.solver is None else self.solver.kind
        return f"distance_{kind}{changed}@{self.nfe}"

    def of(self, bench: Bench) -> dict[str, float]:
        """The distance, and the seconds that the samples took."""
        seed = 1 + (bench.run.recipe.training.seed if bench.run.recipe else 0)
        run = bench.run
        solver = self.solver or run.sampling.solver
        grid = (self.grid or (Uniform() if self.solver else run.sampling.grid)).replace(steps=self.nfe)
        settings = SamplingSettings(solver=solver, grid=grid, batch=500)
        trained = run.model.time
        try:
            run.model.time = self.told or trained
            made = generate(run, self.samples, settings, seed=seed)
        finally:
            run.model.time = trained
        found = bench.judge().distance(made, ruler_of(run, settings, made, seed)).value
        return {self.name: found, self.name.replace("distance", "seconds", 1): made.seconds}

    def smaller(self) -> Distance:
        """Few samples in few steps."""
        return self.replace(samples=12, nfe=min(self.nfe, 3))
