"""How far samples show what their captions say, read off procedural shapes by a program."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from suffuse.base.errors import UsageError
from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.data import Shapes, to_uint8
from suffuse.data.agreement import agreement
from suffuse.sampling import CFG, NoGuidance
from suffuse.tasks.generate import generate

__all__ = ["PromptsMet"]

_HELD_OUT = 1_000_003  # seed of the captions: another than any that is trained on


class PromptsMet(MeasurePart):
    """Shares of samples that meet captions of pictures which were never trained on, as the run samples by itself.

    A denoiser under a code is told that of the pictures, too.

    Values: colour, form, bound (both in every object), whole (and places, and nothing else there), legible;
    seconds_per_image, of sampling and decoding in batches.

    Attributes:
        samples: How many. They are drawn with another seed for every seed of training, the same for all arms.
        scale: Of classifier-free guidance; the run's own when None.
    """

    kind: Literal["prompts_met"] = "prompts_met"
    samples: int = Field(default=500, ge=1)
    scale: float | None = None
    source: ClassVar[tuple[str, ...]] = (
        "suffuse.sampling.loop",
        "suffuse.data.agreement",
        "suffuse.tasks.generate",
        "suffuse.training.decoding",
        "suffuse.training.companions",
        "suffuse.tasks.cascade",
        "suffuse.tasks.prompts",
    )

    def of(self, bench: Bench) -> dict[str, float]:
        """The shares.

        Raises:
            UsageError: The run was not trained on procedural shapes.
        """
        run, recipe = bench.run, bench.run.recipe
        if recipe is None or not isinstance(recipe.data, Shapes):
            raise UsageError("prompts are read off procedural shapes only; train the arm on data.kind=shapes")
        held_out = recipe.data.replace(seed=_HELD_OUT, count=self.samples)
        run = replace(run, recipe=recipe.replace(data=held_out))
        settings = run.sampling
        if self.scale is not None:
            guidance = NoGuidance() if self.scale == 1 else CFG(scale=self.scale)
            settings = settings.replace(guidance=guidance)
        made = generate(run, self.samples, settings, seed=1 + recipe.training.seed)
        captions = held_out.load().captions
        assert captions is not None
        found = agreement(to_uint8(made.x), captions)
        names = ("colour", "form", "bound", "whole", "legible")
        return {**{name: getattr(found, name) for name in names}, "seconds_per_image": made.seconds / self.samples}

    def smaller(self) -> PromptsMet:
        """Few samples."""
        return self.replace(samples=6)
