"""Consistency training and distillation: one loss, weight(t, s) metric(f(x_t, t), target at s), put together of parts.

The presets of the papers (CT, CD, iCT, sLCT, ECT) are recipes of it; their ablations change a line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.batch import Batch
from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser, Evaluation
from suffuse.models.flow_map import FlowMap, FlowMapSettings
from suffuse.objectives.base import Objective, ObjectivePart, Progress
from suffuse.objectives.batches import data_and_noise, training_conditions
from suffuse.objectives.frozen import FrozenRun, check_told_alike, load_frozen
from suffuse.objectives.pair_metric import PairMetric, PseudoHuber
from suffuse.objectives.targets import SameWeights, TargetWeights
from suffuse.objectives.teacher import TeacherStep
from suffuse.process import GapPairs, GridPairs, Pair, Pairs, PathPart, expand, perturb, time_at

__all__ = ["Consistency", "ConsistencyLoss", "LowNoiseDenoising", "Truncation"]


class LowNoiseDenoising(Part):
    """Denoising of the samples at the cleanest grid points: it anchors the chain of targets at the data.

    Its weight is EDM's, 1 / sigma**2 + 1 / sigma_data**2, on the mean squared error; in expectation the mean runs over
    the samples concerned alone. At high noise the data's mean is no consistent target, so it is not asked for there.

    Source: dao2025slct, Section 4.2.

    Attributes:
        strength: Factor on the loss; 5 is the paper's code.
        share: Of the grid's points, counted from the cleanest.
    """

    strength: float = Field(default=5.0, ge=0)
    share: float = Field(default=0.25, gt=0, le=1)

    def ranks(self, intervals: int) -> int:
        """How many of the grid's points, counted from the cleanest but one, are concerned."""
        return math.floor(self.share * (intervals + 1))

    def of(self, mine: Tensor, x0: Tensor, pair: Pair, sigma_data: float, probability: float) -> Tensor:
        """Losses, (B,) float32, zero where not concerned; their expected mean is that over the concerned.

        Args:
            mine: Estimates at the noisier points, with the graph.
            x0: Data.
            pair: On a grid.
            sigma_data: Standard deviation of the data.
            probability: That a sample is concerned. The law's, not the batch's: so that parts of a batch add up.
        """
        if pair.rank is None or pair.intervals is None:
            raise UsageError("low_noise counts the points of a grid; use pairs=grid, or low_noise=null")
        concerned = pair.rank <= self.ranks(pair.intervals)
        weight = (pair.r_t.square().reciprocal() + sigma_data**-2).float()
        error = (mine - x0).float().square().flatten(1).mean(1)
        return self.strength * weight * error * concerned / max(probability, 1e-12)


class Truncation(FrozenRun):
    """Only noise levels from a dividing one on are trained; below it a frozen first stage is the boundary.

    A share of every batch stands at the dividing level itself, where the target is the frozen map: without it the loss
    has constant solutions. Both shares are averaged on their own.

    Source: lee2025tcm, Section 4.

    Attributes:
        split: sigma / alpha of the dividing level, the paper's t'.
        share: Of the batch that stands there.
        strength: Factor on their loss.
    """

    split: float = Field(default=1.0, gt=0)
    share: float = Field(default=0.25, ge=0, lt=1)
    strength: float = Field(default=0.1, ge=0)

    def exact_share(self, total: int) -> float:
        """floor(share B) / B of a step's whole batch, over all processes and accumulated parts."""
        return math.floor(self.share * total) / total

    def boundary(self, noise: Draws) -> Tensor:
        """Which samples stand at the dividing level, (B,) bool: floor(share B) of a batch, spread evenly."""
        place = noise.index.double()
        return ((place + 1) * self.share).floor() > (place * self.share).floor()


class Consistency(ObjectivePart):
    """The estimate of data at a noisier point must be that at a cleaner point of the same trajectory.

    The cleaner point is made from the same data and noise (training: song2023consistency, Algorithm 3) or by a frozen
    teacher's solver step (distillation: Algorithm 2). Both evaluations have the same dropout masks.

    Attributes:
        pairs: At which two noise levels.
        metric: How far the two estimates are apart.
        weighting: `one`; `inverse_gap` is 1 / (r_t - r_s), song2024ict's; `inverse_c_out` is 1 / c_out(t)**2.
        target: By which weights the cleaner point is judged.
        teacher: A finished denoiser whose step makes the cleaner point; from data and noise when None.
        truncation: Train from a dividing noise level on, with a finished map below it; None for all levels.
        low_noise: A second loss that anchors the chain; None for none.
        end: Where the map leads: `t_min`, the papers' boundary, or `clean`, as geng2024ect.
        condition_dropout: Probability that a sample's conditions are hidden.
    """

    kind: Literal["consistency"] = "consistency"
    pairs: Pairs = GridPairs()
    metric: PairMetric = PseudoHuber()
    weighting: Literal["one", "inverse_gap", "inverse_c_out"] = "inverse_gap"
    target: TargetWeights = SameWeights()
    teacher: TeacherStep | None = None
    truncation: Truncation | None = None
    low_noise: LowNoiseDenoising | None = None
    end: Literal["t_min", "clean"] = "t_min"
    condition_dropout: float = Field(default=0.0, ge=0, le=1)

    def flow_map(self) -> FlowMapSettings:
        """A map to its end alone."""
        return FlowMapSettings(end=self.end)

    def shortened(self, steps: int) -> Consistency:
        """With pairs that fit."""
        return self.replace(pairs=self.pairs.shortened(steps))

    def check(self, path: PathPart, steps: int) -> None:
        """Pairs must fit path and steps; a denoising anchor needs a grid."""
        self.pairs.check(path, steps)
        if self.low_noise is not None and not isinstance(self.pairs, GridPairs):
            raise UsageError(
                f"objective.low_noise counts the points of a grid, but pairs {self.pairs.kind!r} have none; use "
                "pairs=grid, or low_noise=null"
            )
        self._check_parts()
        if self.truncation is None:
            return
        if not isinstance(self.pairs, GapPairs) or self.low_noise is not None:
            raise UsageError(
                "objective.truncation trains no low noise levels and makes the cleaner point by a gap; use pairs=gap "
                "and low_noise=null"
            )
        split = time_at(path, torch.tensor(self.truncation.split, dtype=torch.float64))
        if float(self.pairs.levels.cdf(split, path)) > 1e-6:
            raise UsageError(
                f"objective.truncation trains sigma / alpha from {self.truncation.split:g} on, but pairs.levels "
                f"{self.pairs.levels.kind!r} draws lower ones too; use levels with that lower end, such as "
                f"{{kind: log_student_t, low: {self.truncation.split:g}}}"
            )

    def _check_parts(self) -> None:
        """Refuse settings that would have no effect."""
        if isinstance(self.pairs, GridPairs):
            return
        if self.end == "t_min":
            raise UsageError(
                f"pairs {self.pairs.kind!r} reach clean data, beyond the end t_min of the map; set objective.end=clean"
            )
        if getattr(self.metric, "c", None) == "grid":
            raise UsageError(
                f"metric.c 'grid' follows the number of a grid's intervals, but pairs {self.pairs.kind!r} have no "
                "grid; use a number, or size"
            )
        if getattr(self.target, "s0", None) is not None:
            raise UsageError(
                f"target.s0 slows the average as a grid gets finer, but pairs {self.pairs.kind!r} have no grid; set "
                "target.s0=null for target.mu0 throughout"
            )

    def build(self, model: Denoiser) -> Objective:
        """A module, because targets and teachers have weights."""
        if not isinstance(model, FlowMap):
            raise UsageError(
                "objective 'consistency' trains a flow map, but this model is a denoiser; build it with "
                "ModelConfig(flow_map=objective.flow_map())"
            )
        if self.teacher is not None or self.truncation is not None:
            check_told_alike(model, "first stage" if self.teacher is None else "teacher")
        return ConsistencyLoss(self, model)


def _first_stage(truncation: Truncation, model: FlowMap) -> FlowMap:
    """The frozen map, with dropout by the same seeds as the model's."""
    frozen = load_frozen(truncation, model, "first stage")
    if not isinstance(frozen, FlowMap) or frozen.path != model.path or frozen.settings != model.settings:
        raise UsageError(
            f"the first stage {truncation.run} must be a flow map on the same path, with the same end ({model.path!r}, "
            f"{model.settings!r}); give a run of a consistency objective, and set objective.end as it was there"
        )
    return frozen


@dataclass(frozen=True)
class _Truncated:
    """A map for noise levels from `split` on, and a frozen one below: every sample is asked of one of them."""

    above: FlowMap
    below: FlowMap
    split: float

    def denoise(self, x: Tensor, t: Tensor, cond: Conditions, call: Call) -> Tensor:
        """Endpoints, (B, ...)."""
        path = self.above.path
        high = path.sigma(t) >= self.split * path.alpha(t)
        result = torch.empty_like(x)
        for model, rows in ((self.above, high.nonzero()[:, 0]), (self.below, (~high).nonzero()[:, 0])):
            if len(rows):
                seeds = None if call.seeds is None else call.seeds[rows]
                result[rows] = model.denoise(x[rows], t[rows], cond[rows], call.replace(seeds=seeds)).to(x.dtype)
        return result


class ConsistencyLoss(nn.Module):
    """The live objective.

    Attributes:
        averaged: Weights of the target, when they are not the model's own; part of a checkpoint.
    """

    def __init__(self, part: Consistency, model: FlowMap) -> None:
        super().__init__()
        self.part = part
        self.averaged = part.target.start(model)
        # The teacher never changes: it is neither saved in checkpoints nor moved with this module's state.
        self._teacher = (None if part.teacher is None else part.teacher.load(model),)
        self._below = (None if part.truncation is None else _first_stage(part.truncation, model),)

    def forward(
        self, model: FlowMap, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
    ) -> dict[str, Tensor]:
        """Losses by name, (B,) each: `consistency`, and `low_noise` where there is an anchor."""
        part, path = self.part, model.path
        x0, eps = data_and_noise(batch, noise, part.kind)
        pair, boundary = self._pairs(model, progress, noise)
        cond = training_conditions(model, batch, noise, part.condition_dropout)
        call = Call(seeds=noise.keys("network"))
        x_t = perturb(path, x0, eps, pair.t)
        evaluation = model.evaluate(x_t, pair.t, cond, call)
        mine = model.endpoint(evaluation)
        with torch.no_grad():
            target = self._target(model, x0, eps, x_t, pair, cond, call)
        distance = part.metric.of(mine, target, pair.intervals)
        weighted = distance * self._weight(pair, evaluation)
        if boundary is None or part.truncation is None:
            losses = {"consistency": weighted}
        else:
            share = part.truncation.exact_share(noise.total)
            losses = {"consistency": weighted * ~boundary / (1 - share)}
            if share:
                losses["boundary"] = part.truncation.strength * weighted * boundary / share
        if part.low_noise is not None:
            losses["low_noise"] = part.low_noise.of(mine, x0, pair, model.sigma_data, self._concerned(path, pair))
        return losses

    def _concerned(self, path: PathPart, pair: Pair) -> float:
        """Probability that a sample stands at the grid's cleanest points."""
        part = self.part
        if part.low_noise is None or pair.intervals is None or not isinstance(part.pairs, GridPairs):
            return 0.0
        shares = part.pairs.probabilities(path, pair.intervals)
        return float(shares[: part.low_noise.ranks(pair.intervals)].sum())

    def _pairs(self, model: FlowMap, progress: Progress, noise: Draws) -> tuple[Pair, Tensor | None]:
        """The pairs, and which of them stand at the dividing noise level."""
        part, path = self.part, model.path
        pair = part.pairs.draw(noise, path, progress.step, progress.total)
        if part.truncation is None:
            return pair, None
        assert isinstance(part.pairs, GapPairs)
        boundary = part.truncation.boundary(noise)
        # At the level itself or above, whatever rounding does: the level belongs to the model that is trained.
        r_t = torch.where(boundary, part.truncation.split * (1 + 1e-8), pair.r_t.clamp_min(part.truncation.split))
        r_s = part.pairs.cleaner(r_t, progress.step, progress.total)
        return Pair(time_at(path, r_t), time_at(path, r_s), r_t, r_s), boundary

    def _target(
        self, model: FlowMap, x0: Tensor, eps: Tensor, x_t: Tensor, pair: Pair, cond: Conditions, call: Call
    ) -> Tensor:
        """What the estimate at the noisier point shall be, (B, ...)."""
        (teacher,), path = self._teacher, model.path
        if teacher is None or self.part.teacher is None:
            x_s = perturb(path, x0, eps, pair.s)
        else:
            x_s = self.part.teacher.step(teacher, path, x_t, pair, cond)
        judge: FlowMap | _Truncated = model if self.averaged is None else self.averaged
        (below,) = self._below
        if below is not None and self.part.truncation is not None:
            judge = _Truncated(model if self.averaged is None else self.averaged, below, self.part.truncation.split)
        if pair.intervals is not None:  # a grid ends above clean data
            return judge.denoise(x_s, pair.s, cond, call)
        # At clean data the network's coefficient is zero, whatever it says of a time that it was never told.
        clean = expand(pair.r_s <= 0, x_s).bool()
        safe = torch.where(pair.r_s > 0, pair.s, pair.t)
        return torch.where(clean, x_s, judge.denoise(x_s, safe, cond, call))

    def _weight(self, pair: Pair, evaluation: Evaluation) -> Tensor:
        if self.part.weighting == "inverse_gap":
            return pair.gap.reciprocal().float()
        if self.part.weighting == "inverse_c_out":
            return torch.as_tensor(evaluation.c_out).float().flatten().square().reciprocal()
        return torch.ones_like(pair.t, dtype=torch.float32)

    def after_step(self, model: nn.Module, progress: Progress) -> None:
        """Let the target's weights follow."""
        if self.averaged is not None:
            curriculum = getattr(self.part.pairs, "curriculum", None)
            intervals = None if curriculum is None else curriculum.intervals(progress.step, progress.total)
            self.part.target.follow(self.averaged, model, intervals)
