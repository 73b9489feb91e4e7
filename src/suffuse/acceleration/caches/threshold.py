"""Caches that decide while they run: the middle blocks compute once what enters them has changed enough.

One decision falls for a whole batch and waits for the device once a step; so a sample depends, within the threshold, on
those that share its batch.
"""

from __future__ import annotations

import abc
from typing import Literal

from pydantic import Field
from torch import Tensor

from suffuse.acceleration.caches.residual import residual_blocks
from suffuse.acceleration.plan import Ask, Moment, PlanPart, Policy
from suffuse.acceleration.reuse import check_sizes
from suffuse.acceleration.timeline import Timeline
from suffuse.base.errors import UsageError
from suffuse.networks.contract import Network, Output

__all__ = ["FirstBlockCache", "TeaCache", "ThresholdPlan"]


class ThresholdPlan(PlanPart):
    """The first blocks run at every step, and what they add is the probe; the middle's sum is reused while it is calm.

    Attributes:
        threshold: Relative change of the probe from which the middle computes again.
        front: Blocks at the start that always run (the F of cache-dit).
        back: Blocks at the end that always run (its B).
        warm_up: So many first steps compute everything.
        longest: Steps in a row that may reuse; None for any number.
    """

    threshold: float = Field(default=0.1, gt=0)
    front: int = Field(default=1, ge=1)
    back: int = Field(default=0, ge=0)
    warm_up: int = Field(default=1, ge=1)
    longest: int | None = Field(default=None, ge=1)

    @abc.abstractmethod
    def meter(self) -> _Meter:
        """What measures the change along one run."""

    def bind(self, network: Network, steps: int | None) -> Policy:
        """Probe, and decide."""
        blocks = residual_blocks(network)
        if len(blocks) < self.front + self.back + 1:
            raise UsageError(
                f"plan {self.kind!r} with front={self.front} and back={self.back} leaves none of this network's "
                f"{len(blocks)} blocks that add to their tokens; lower them, or use plan deepcache or encoder_reuse on "
                "a U-Net"
            )
        return _Threshold(self, network.graph[blocks[0]][0], blocks[self.front - 1], blocks[-1 - self.back])

    def preview(self, network: Network, steps: int) -> Timeline:
        """Not known."""
        raise UsageError(
            f"plan {self.kind!r} decides while it runs; look at the timeline of a run: "
            "`with applied(model, plan) as run: ...`, then `run.timeline()`"
        )


class _Meter(abc.ABC):
    """How much the probe has changed, along one run."""

    @abc.abstractmethod
    def changed(self, probe: Tensor) -> float:
        """Change since the middle was computed, with this step's probe, (B, N, D)."""

    @abc.abstractmethod
    def computed(self, probe: Tensor) -> None:
        """The middle was computed at this probe."""


def _relative_change(now: Tensor, before: Tensor) -> float:
    """Mean absolute difference over the mean absolute value before."""
    return float((now - before).abs().mean() / before.abs().mean().clamp_min(1e-12))


class _SinceComputed(_Meter):
    """Change of the probe since the middle was computed."""

    def __init__(self) -> None:
        self.probe: Tensor | None = None

    def changed(self, probe: Tensor) -> float:
        return float("inf") if self.probe is None else _relative_change(probe, self.probe)

    def computed(self, probe: Tensor) -> None:
        self.probe = probe


class _Gathered(_Meter):
    """Sum of the changes from step to step, each of them through a polynomial."""

    def __init__(self, coefficients: tuple[float, ...]) -> None:
        self.coefficients = coefficients
        self.probe: Tensor | None = None
        self.sum = float("inf")

    def changed(self, probe: Tensor) -> float:
        if self.probe is not None:
            change, value = _relative_change(probe, self.probe), 0.0
            for coefficient in self.coefficients:
                value = value * change + coefficient
            self.sum += max(value, 0.0)
        self.probe = probe
        return self.sum

    def computed(self, probe: Tensor) -> None:
        self.sum = 0.0


class FirstBlockCache(ThresholdPlan):
    """The middle runs again once the probe has changed enough since it last ran.

    After the first-block cache of ParaAttention and diffusers; `front` and `back` as in cache-dit.
    """

    kind: Literal["first_block"] = "first_block"

    def meter(self) -> _Meter:
        """Since the middle was computed."""
        return _SinceComputed()


class TeaCache(ThresholdPlan):
    """The middle runs again once the probe's changes from step to step, through a polynomial, add up to enough.

    The probe is what the first block adds, instead of the modulated input that it reads: every network names the
    former. Published coefficients belong to the latter.

    Source: liu2025teacache, Eqs. 6 to 8.

    Attributes:
        coefficients: Of the polynomial, highest power first; (1, 0) leaves the change as it is.
    """

    kind: Literal["teacache"] = "teacache"
    coefficients: tuple[float, ...] = Field(default=(1.0, 0.0), min_length=1)

    def meter(self) -> _Meter:
        """Summed from step to step."""
        return _Gathered(self.coefficients)


class _Threshold:
    """A threshold cache at work."""

    def __init__(self, plan: ThresholdPlan, entry: str, start: str, end: str) -> None:
        self.plan, self.entry, self.start, self.end = plan, entry, start, end
        self.meter = plan.meter()
        self.added: Tensor | None = None
        self.x: Tensor | None = None
        self.reused = 0

    def __call__(self, ask: Ask, moment: Moment) -> Output:
        check_sizes(self.x, moment, self.plan.kind)
        entered, reached = ask.probe(self.entry, self.start)
        probe = (_shortened(reached, entered) - entered).detach()
        change = self.meter.changed(probe)
        calm = change < self.plan.threshold and moment.step >= self.plan.warm_up
        if self.added is not None and calm and (self.plan.longest is None or self.reused < self.plan.longest):
            self.reused += 1
            return ask(given={self.end: _shortened(reached, self.added) + self.added})
        output = ask(taps=(self.end,), given={self.start: reached})
        end = output.features[self.end]
        self.added, self.x, self.reused = (end - _shortened(reached, end)).detach(), moment.x, 0
        self.meter.computed(probe)
        return output


def _shortened(tokens: Tensor, to: Tensor) -> Tensor:
    """The first tokens, as many as another sequence has: SD3's text goes in after and leaves before its image."""
    return tokens[:, : to.shape[1]]
