"""Reuse on a schedule: features that are kept at some steps and given at the others, as they were or extrapolated."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from suffuse.acceleration.plan import Ask, Moment, PlanPart, Policy, checked_steps
from suffuse.acceleration.schedule import power_steps, published_power_steps, uniform_steps
from suffuse.base.errors import UsageError
from suffuse.networks.contract import Network, Output
from suffuse.sampling.solvers.exponential import lagrange

__all__ = ["History", "ScheduledPlan", "check_sizes"]


class ScheduledPlan(PlanPart):
    """A plan that refreshes what it keeps at steps that are known beforehand.

    Attributes:
        every: Steps from one refresh to the next, on average; 1 computes everything everywhere.
        schedule: `uniform`; or `power`, dense around `centre`, in a reading without complex numbers; or
            `published_power`, as the code of ma2024deepcache computes it.
        centre: Step around which the power schedules are dense; 0 with power 2 is the quadratic one.
        power: How dense.
        refresh: The steps themselves instead of a rule; step 0 always refreshes.
        order: Of the polynomial by which what is kept is extrapolated from the last refreshes; 0 keeps it as it was.
    """

    every: int = Field(default=3, ge=1)
    schedule: Literal["uniform", "power", "published_power"] = "uniform"
    centre: float = Field(default=0.0, ge=0)
    power: float = Field(default=2.0, gt=1)
    refresh: tuple[int, ...] | None = Field(default=None, min_length=1)
    order: Literal[0, 1, 2] = 0

    @model_validator(mode="after")
    def _falling(self) -> ScheduledPlan:
        if self.refresh is not None and (sorted(set(self.refresh)) != list(self.refresh) or self.refresh[0] < 0):
            raise ValueError(f"refresh {self.refresh} must be rising step numbers from 0")
        return self

    @abc.abstractmethod
    def names(self, network: Network) -> tuple[str, ...]:
        """Features that are kept.

        Raises:
            UsageError: The network does not have them.
        """

    def refreshes(self, steps: int | None) -> tuple[int, ...] | None:
        """Steps that refresh; None for every so many, when nobody knows how many there are.

        Raises:
            UsageError: The schedule is longer than the run, or needs to know its length.
        """
        if self.refresh is not None:
            if steps is not None and self.refresh[-1] >= steps:
                raise UsageError(
                    f"plan {self.kind!r} refreshes at step {self.refresh[-1]}, but there are only {steps} steps, from "
                    f"0 to {steps - 1}; sample in more steps or shorten `refresh`"
                )
            return tuple(sorted({0, *self.refresh}))
        if self.schedule == "uniform":
            return None if steps is None else uniform_steps(steps, self.every)
        rule = power_steps if self.schedule == "power" else published_power_steps
        return rule(checked_steps(steps, self), self.every, self.centre, self.power)

    def newest(self, step: int) -> int:
        """The last step up to this one that refreshes, when nobody knows how many there are."""
        return step - step % self.every

    def check(self, network: Network) -> None:
        """The features must be there."""
        self.names(network)

    def bind(self, network: Network, steps: int | None) -> Policy:
        """Refresh and reuse by the schedule."""
        return _Reuse(self, network, self.refreshes(steps))


class _Reuse:
    """A scheduled plan at work."""

    def __init__(self, plan: ScheduledPlan, network: Network, refreshes: tuple[int, ...] | None) -> None:
        self.plan, self.refreshes = plan, refreshes
        self.names = plan.names(network)
        self.history = History(plan.order)

    def _newest(self, step: int) -> int:
        """The last step up to this one that refreshes."""
        if self.refreshes is None:
            return self.plan.newest(step)
        return max(refresh for refresh in self.refreshes if refresh <= step)

    def __call__(self, ask: Ask, moment: Moment) -> Output:
        # What is older than the schedule allows is of a stream that was away (a guidance's interval): it is not used.
        if self.history.step < self._newest(moment.step):
            output = ask(taps=self.names)
            self.history.keep(moment, {name: output.features[name] for name in self.names})
            return output
        check_sizes(self.history.x, moment, self.plan.kind)
        return ask(given=self.history.at(moment.place))


def check_sizes(kept: Tensor | None, moment: Moment, kind: str) -> None:
    """Raise a `UsageError` when a step's input has another shape than the one whose features were kept."""
    if kept is not None and kept.shape != moment.x.shape:
        raise UsageError(
            f"plan {kind!r} keeps features of inputs of {tuple(kept.shape)}, but at step {moment.step} an input of "
            f"{tuple(moment.x.shape)} came: batch and resolution must stay the same from step to step; if several "
            "evaluations of a step come one after the other, say how many by `streams`"
        )


class History:
    """Features of the last refreshes, newest first.

    Args:
        order: Of the polynomial through them; as low as there are refreshes for.
    """

    def __init__(self, order: int) -> None:
        self.order = order
        self.step = -1
        self.x: Tensor | None = None
        self._places: list[float] = []
        self._features: list[dict[str, Tensor]] = []

    def keep(self, moment: Moment, features: dict[str, Tensor]) -> None:
        """A refresh's features."""
        self.step, self.x = moment.step, moment.x.detach()
        if moment.place in self._places:  # no polynomial goes through one place twice
            place = self._places.index(moment.place)
            del self._places[place], self._features[place]
        self._places = [moment.place, *self._places][: self.order + 1]
        detached = {name: value.detach() for name, value in features.items()}
        self._features = [detached, *self._features][: self.order + 1]

    def at(self, place: float) -> dict[str, Tensor]:
        """Features at a later place: the newest, or the polynomial through the last ones."""
        newest = self._features[0]
        if len(self._features) == 1:
            return newest
        weights = lagrange(self._places, np.array([place]))[:, 0].tolist()
        return {name: _mixed(weights, [features[name] for features in self._features]) for name in newest}


def _mixed(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    mixed = values[0] * weights[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        mixed = mixed.add(value, alpha=weight)
    return mixed
