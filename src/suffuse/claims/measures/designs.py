"""Designs met: how near designs are to what a rule says of what was asked, an exact judge of inverse design."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field

from suffuse.base.errors import UsageError
from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.data import Trusses, to_uint8
from suffuse.data.trusses import design_errors
from suffuse.models.low_resolution import LOW
from suffuse.tasks.generate import conditions_for, generate
from suffuse.tasks.runs import own_data
from suffuse.training.sample_conditions import sample_conditions

__all__ = ["DesignsMet"]

_HELD_OUT = 1_000_003  # seed of the designs that are asked for: no run is trained on them


class DesignsMet(MeasurePart):
    """Errors of designs for loads that were never trained on, as the run samples by itself.

    Values: overlap (mean intersection over union with the rule's design), volume_error (median), seconds_per_image; of
    a cascade also overlap_true (its last stage under true small designs: what its first stage cannot better) and
    overlap_nearest (the first stage's designs, enlarged by their nearest pixels: what its last stage must better).

    Attributes:
        samples: How many. They are drawn with another seed for every seed of training, the same for all arms.
    """

    kind: Literal["designs_met"] = "designs_met"
    samples: int = Field(default=200, ge=1)
    source: ClassVar[tuple[str, ...]] = (
        "suffuse.sampling.loop",
        "suffuse.data.trusses",
        "suffuse.tasks.generate",
        "suffuse.training.companions",
        "suffuse.tasks.cascade",
    )

    def of(self, bench: Bench) -> dict[str, float]:
        """The errors.

        Raises:
            UsageError: The run was not trained on procedural trusses.
        """
        run, recipe = bench.run, bench.run.recipe
        if recipe is None or not isinstance(recipe.data, Trusses):
            raise UsageError("designs are judged on procedural trusses only; train the arm on data.kind=trusses")
        held_out = recipe.data.replace(seed=_HELD_OUT, count=self.samples)
        run = replace(run, recipe=recipe.replace(data=held_out))
        answers, volume = held_out.load().values, held_out.asked().volume
        seed = 1 + recipe.training.seed
        own_data(run)  # read now, and not in the seconds of a sample
        made = generate(run, self.samples, run.sampling, seed=seed)  # with the seconds of the stages before
        found = design_errors(to_uint8(made.x), answers, volume)
        seconds = made.seconds / self.samples
        values = {"overlap": found.overlap, "volume_error": found.volume, "seconds_per_image": seconds}
        if run.first is None:
            return values
        told, _ = conditions_for(run, self.samples, seed=seed)
        assert told is not None
        enlarged = F.interpolate(told.values[LOW], scale_factor=recipe.data.size // told.values[LOW].shape[-1])
        values["overlap_nearest"] = design_errors(to_uint8(enlarged), answers, volume).overlap
        true = sample_conditions(run.model, self.samples, data=lambda: own_data(run), seed=seed)
        best = generate(run, self.samples, run.sampling, seed=seed, cond=true)
        values["overlap_true"] = design_errors(to_uint8(best.x), answers, volume).overlap
        return values

    def smaller(self) -> DesignsMet:
        """Few samples."""
        return self.replace(samples=6)
