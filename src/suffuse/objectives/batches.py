"""What a training step takes from a batch: data, the noise paired with them, conditions of which some are hidden."""

from __future__ import annotations

from torch import Tensor

from suffuse.base.batch import Batch
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser

__all__ = ["data_and_noise", "data_of", "training_conditions"]


def data_of(batch: Batch, objective: str) -> Tensor:
    """Data of a batch, (B, ...).

    Raises:
        UsageError: It has none.
    """
    if batch.x0 is None:
        raise UsageError(f"objective {objective!r} needs data, but the batch has no x0; choose a data source")
    return batch.x0


def data_and_noise(batch: Batch, noise: Draws, objective: str) -> tuple[Tensor, Tensor]:
    """Data, and the unit noise that a coupling has paired with them or that is drawn here: both (B, ...).

    Args:
        batch: With data.
        noise: Randomness of the samples.
        objective: Kind of the objective, for the message.

    Raises:
        UsageError: The batch has no data.
    """
    x0 = data_of(batch, objective)
    eps = noise.normal("eps", tuple(x0.shape[1:])).to(x0.dtype) if batch.eps is None else batch.eps
    return x0, eps


def training_conditions(model: Denoiser, batch: Batch, noise: Draws, dropout: float) -> Conditions:
    """Conditions of a batch, with those that can be computed from its data, and all of a sample's hidden at random.

    Args:
        model: Whose conditioner observes the data.
        batch: May have no data: then nothing is computed from them.
        noise: Randomness of the samples.
        dropout: Probability that a sample's conditions are hidden: guidance needs an unconditional half.
    """
    cond = batch.cond if batch.x0 is None else model.conditioner.observe(batch.x0, batch.cond, noise.keys("observed"))
    if not cond or dropout == 0:
        return cond
    return cond.drop(noise.uniform("condition dropout") < dropout)
