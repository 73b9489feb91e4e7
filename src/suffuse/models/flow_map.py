"""FlowMap: x_t, t, s -> x_s, the point at time s of the trajectory through x_t; with one s a consistency model."""

from __future__ import annotations

from dataclasses import replace as changed
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.models.conditioner import Conditioner
from suffuse.models.denoiser import Denoiser, Evaluation
from suffuse.networks.blocks.embeddings import Sinusoids
from suffuse.networks.blocks.initialise import zero_weights
from suffuse.networks.contract import Network
from suffuse.networks.part import seeded
from suffuse.process import (
    ConsistencyPrediction,
    Level,
    PathPart,
    PredictionPart,
    TimeConditionPart,
    sigma_over_alpha,
    transfer,
)

__all__ = ["FlowMap", "FlowMapSettings"]


class FlowMapSettings(Part):
    """What a flow map can do.

    Attributes:
        end: Where it leads when nothing else is said. `t_min` is the path's least time, where the papers put the
            boundary; `clean` is clean data, where the network's own estimate is the boundary.
        any_target: Whether the network is told where to go, so that maps between any two times are learned.
        frequencies: Sinusoids that tell it.
    """

    end: Literal["t_min", "clean"] = "t_min"
    any_target: bool = False
    frequencies: int = Field(default=64, gt=2, multiple_of=2)


class _TargetTime(nn.Module):
    """Vector that tells the network where to go, (B,) -> (B, width); zero at first: a denoiser stays what it is."""

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.sinusoids = Sinusoids(frequencies, freq_shift=0, cosine_first=True)
        self.inner = nn.Linear(frequencies, width)
        self.outer = nn.Linear(width, width)
        zero_weights(self.outer)

    def forward(self, told: Tensor) -> Tensor:
        vector: Tensor = self.outer(nn.functional.silu(self.inner(self.sinusoids(told).to(self.inner.weight.dtype))))
        return vector


class FlowMap(Denoiser):
    """f(x_t, t, s) = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) D(x_t, t, s).

    The boundary f(x, t, t) = x holds by construction on every path and with every prediction, because D is whatever
    point of the data a straight step from x_t must aim at to arrive at x_s. On EDM's path f(x, t, t_min) is a
    consistency function in the sense of song2023consistency; on the flow path with prediction `flow` the network's
    output is MeanFlow's average velocity (geng2025meanflow, Eq. 3).

    `denoise` gives the endpoint f(x_t, t, end) / alpha(end), an estimate of data, not of their mean.

    Args:
        network, path, prediction, time, conditioner, sigma_data: As for a Denoiser. Prediction `consistency` has its
            boundary at `t_min` in itself, in the papers' form.
        settings: Its end, and whether it is told its target.

    Raises:
        UsageError: Parts that do not go together.
    """

    estimate: ClassVar[Literal["mean", "endpoint"]] = "endpoint"

    def __init__(
        self,
        network: Network,
        *,
        path: PathPart,
        prediction: PredictionPart,
        time: TimeConditionPart | None = None,
        conditioner: Conditioner | None = None,
        sigma_data: float = 0.5,
        settings: FlowMapSettings | None = None,
    ) -> None:
        super().__init__(
            network, path=path, prediction=prediction, time=time, conditioner=conditioner, sigma_data=sigma_data
        )
        self.settings = settings or FlowMapSettings()
        self.r_end = sigma_over_alpha(path, path.t_min) if self.settings.end == "t_min" else 0.0
        self._own_boundary = isinstance(prediction, ConsistencyPrediction)
        self._check()
        with seeded(0):  # the last layer is zero, so that all models may share the first
            self.target = (
                _TargetTime(self.settings.frequencies, network.cond_width) if self.settings.any_target else None
            )

    def _check(self) -> None:
        told_end = self.time.told(torch.tensor(self.t_end, dtype=torch.float64), self.path)
        if self.settings.any_target and not bool(told_end.isfinite()):
            raise UsageError(
                f"time condition {self.time.kind!r} tells {told_end.item():g} of clean data, where this map ends; use "
                "end: t_min, or time=identity"
            )
        if self.settings.end == "t_min" and self.r_end == 0:
            raise UsageError(
                f"a flow map that ends at t_min needs noise there, but path {self.path.kind!r} has none; raise its "
                "least time, or use end: clean"
            )
        if not isinstance(self.prediction, ConsistencyPrediction):
            return
        if self.settings.end != "t_min" or abs(self.prediction.r_min / self.r_end - 1) > 1e-6:
            raise UsageError(
                f"prediction.r_min is {self.prediction.r_min:g}, but the map ends where sigma / alpha is "
                f"{self.r_end:g}; set prediction.r_min={self.r_end:.9g} and end: t_min, or use another prediction, "
                "which gets the boundary from the map"
            )
        if self.settings.any_target:
            raise UsageError(
                "prediction 'consistency' has its boundary at t_min alone; a map to any time needs another, such as "
                "edm, v or flow"
            )

    @property
    def t_end(self) -> float:
        """Where it leads when nothing else is said."""
        return self.path.t_min if self.settings.end == "t_min" else self.path.t_clean

    def embed(self, cond: Conditions, batch: int, call: Call) -> Embedding:
        """The conditions, and where to go."""
        embedded = super().embed(cond, batch, call)
        if self.target is None:
            return embedded
        vector = self.target(self.told(self.t_end if call.target is None else call.target, batch))
        return changed(embedded, vector=vector if embedded.vector is None else embedded.vector + vector)

    def endpoint(self, evaluation: Evaluation) -> Tensor:
        """f(x_t, t, end) / alpha(end), (B, ...), of an evaluation whose target was the end.

        With r = sigma / alpha: (r_end / r_t) x_t / alpha_t + (1 - r_end / r_t) D, multiplied out for alpha = 0.
        """
        if self._own_boundary or self.r_end == 0:
            return evaluation.denoised
        kept = self.r_end / evaluation.level.sigma
        return kept * evaluation.x + (1 - kept * evaluation.level.alpha) * evaluation.denoised

    def denoise(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        """The endpoint of the trajectory through x_t, (B, ...); or D, if the call has another target.

        A straight step aimed at D arrives at that target: `transfer`, which solvers do.
        """
        evaluation = self.evaluate(x, t, cond, call)
        if call is not None and call.target is not None:
            self._needs_target(call.target)
            return evaluation.denoised
        return self.endpoint(evaluation)

    def forward(
        self,
        x: Tensor,
        t: float | Tensor,
        s: float | Tensor,
        cond: Conditions | None = None,
        call: Call | None = None,
    ) -> Tensor:
        """f(x_t, t, s), (B, ...): the point at time s of the trajectory through x_t.

        Args:
            x: Noisy samples x_t, (B, ...).
            t: Their times, (B,), or one float for all.
            s: Times to go to, (B,), or one float for all; the map's end when it knows no others.
            cond: Conditions of the samples.
            call: Context of the call.

        Raises:
            UsageError: The map knows its end alone.
        """
        self._needs_target(s)
        there = self._level(s, x)
        if self._own_boundary:
            return there.alpha * self.denoise(x, t, cond, call)
        evaluation = self.evaluate(x, t, cond, (call or Call()).replace(target=s))
        return transfer(x, evaluation.denoised, evaluation.level, there)

    def _needs_target(self, s: float | Tensor) -> None:
        if self.target is None and bool((torch.as_tensor(s) != self.t_end).any()):
            raise UsageError(
                f"this map leads to t={self.t_end:g} alone: it was trained without a target time; ask for that one, or "
                "train with an objective that learns all of them, such as mean_flow"
            )

    def _level(self, t: float | Tensor, x: Tensor) -> Level:
        return self.path.level(t, x) if isinstance(t, Tensor) else self.path.level(t)
