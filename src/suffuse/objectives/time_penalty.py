"""Time penalty: a Lipschitz regulariser on the network's change in time near clean data, E-TSDM's first alternative."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.part import Part
from suffuse.models.denoiser import Denoiser, Evaluation
from suffuse.process import PathPart, near_clean

__all__ = ["TimePenalty"]

_STEPS = 1000  # a small step in time is this part of a continuous path, and one index of a table


class TimePenalty(Part):
    """Squared change of the network's output over one small step in time, at the same noisy sample.

    Source: yang2024etsdm, where it is an alternative to sharing; its scale is ours. It costs a second forward for the
    samples concerned: a tenth of the batch at the defaults.

    Attributes:
        strength: Factor on the mean squared change over one step.
        below: Times under this are penalised, in the path's unit; None for a tenth of the path.
    """

    strength: float = Field(default=100.0, ge=0)
    below: float | None = Field(default=None, gt=0)

    def check(self, path: PathPart) -> None:
        """Raise a `UsageError` on paths where `below` has no default."""
        near_clean(path, self.below)

    def of(self, model: Denoiser, evaluation: Evaluation, t: Tensor, cond: Conditions, call: Call) -> Tensor:
        """Penalty of each sample, (B,) float32; 0 for times that are not near clean data.

        Args:
            model: Whose output F is compared with itself.
            evaluation: F(x_t, t), with the graph.
            t: Its times, (B,) float64.
            cond: The conditions that the evaluation had.
            call: The call that the evaluation had: the same seeds give the same dropout.
        """
        path = model.path
        step = 1.0 if path.indices is not None else (path.t_max - path.t_clean) / _STEPS
        penalty = torch.zeros(len(t), device=evaluation.raw.device)
        rows = (t < near_clean(path, self.below)).nonzero()[:, 0]
        if len(rows) == 0:
            return penalty
        seeds = None if call.seeds is None else call.seeds[rows]
        moved = model.evaluate(evaluation.x[rows], t[rows] + step, cond[rows], call.replace(seeds=seeds))
        change = (moved.raw - evaluation.raw[rows]).float().flatten(1)
        return penalty.index_put((rows,), self.strength * change.square().mean(1))
