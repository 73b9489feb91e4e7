"""The conditions of a training batch: those of the data, some of them hidden."""

from __future__ import annotations

from suffuse.base.batch import Batch
from suffuse.base.conditions import Conditions
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser

__all__ = ["training_conditions"]


def training_conditions(model: Denoiser, batch: Batch, noise: Draws, dropout: float) -> Conditions:
    """Conditions of a batch, with those that can be computed from its data, and all of a sample's hidden at random.

    Args:
        model: Whose conditioner observes the data.
        batch: May have no data: then nothing is computed from them.
        noise: Randomness of the samples.
        dropout: Probability that a sample's conditions are hidden: guidance needs an unconditional half.
    """
    cond = batch.cond if batch.x0 is None else model.conditioner.observe(batch.x0, batch.cond)
    if not cond or dropout == 0:
        return cond
    return cond.drop(noise.uniform("condition dropout") < dropout)
