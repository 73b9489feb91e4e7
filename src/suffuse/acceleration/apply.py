"""Applying a plan: to a Denoiser, to a network of diffusers, or to a whole diffusers pipeline, and taking it back."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from suffuse.acceleration.foreign import applied_to_model, network_of
from suffuse.acceleration.layers import Applied, Layers
from suffuse.acceleration.macs import MacCounter
from suffuse.acceleration.plan import Evaluate, Moment, PlanPart
from suffuse.acceleration.repeat import repeated
from suffuse.base.call import Call
from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.models.denoiser import Denoiser
from suffuse.networks.contract import Network, Output
from suffuse.process import Level

__all__ = ["applied"]


@contextmanager
def applied(
    target: Any,  # Any: a Denoiser, or a model or a pipeline of an optional package
    plan: PlanPart,
    *,
    steps: int | None = None,
    streams: int = 1,
    counter: MacCounter | None = None,
) -> Iterator[Applied]:
    """Apply a plan for as long as the context lasts; after it, also after an exception, all is as it was.

    `with applied(model, DeepCache(every=3)): sample(model, 64)`, or
    `with applied(pipe, DeepCache(every=3)): pipe(...)`. Contexts can be nested; plans that decide on the same are
    refused.

    A pipeline's scheduler tells when a run begins. A bare diffusers network takes a time that rises for the beginning
    of the next run, so that one which is called at the same time again and again needs `steps`.

    Args:
        target: A Denoiser; a `UNet2DModel`, `UNet2DConditionModel`, `DiTTransformer2DModel`, `SD3Transformer2DModel` or
            `PixArtTransformer2DModel` of diffusers; or a diffusers pipeline with one of them.
        plan: The plan.
        steps: Calls of a run, for a bare diffusers network; a Denoiser and a pipeline know it.
        streams: How many times a diffusers network is called at each step, one call after the other (guidance that
            does not stack its halves along the batch).
        counter: Counts multiply-accumulates, in `Applied.macs`; the first call of each kind takes longer.

    Yields:
        What comes of it: `timeline()`, `macs`.

    Raises:
        UsageError: Another target, a plan that does not fit the network or a plan before it, a compiled network.
    """
    if isinstance(target, Denoiser):
        with _applied_to_denoiser(target, plan, counter) as found:
            yield found
        return
    if isinstance(target, Network):
        raise UsageError("a plan stands between a Denoiser and its network; apply it to the Denoiser")
    model, scheduler = network_of(target)
    with applied_to_model(model, scheduler, plan, steps=steps, streams=streams, counter=counter) as found:
        yield found


@contextmanager
def _applied_to_denoiser(model: Denoiser, plan: PlanPart, counter: MacCounter | None) -> Iterator[Applied]:
    network = model.network
    if network._compiled_call_impl is not None and plan.owns & {"tokens", "attention"}:
        raise UsageError(
            f"plan {plan.kind!r} reaches into the layers of the network, which is compiled; use it on one that is not"
        )
    planned = model.planned if isinstance(model.planned, _Planned) else _Planned(network)
    layer = planned.layers.add(plan, counter)
    model.planned = planned
    try:
        yield layer.applied
    finally:
        planned.layers.layers.remove(layer)
        if not planned.layers.layers:
            model.planned = None


def _none() -> None:
    """What is left of plans in a copy of a denoiser."""


class _Planned:
    """What a denoiser asks instead of its network."""

    def __init__(self, network: Network) -> None:
        self.layers = Layers(network)
        self._times: tuple[float, ...] = ()
        self._steps: dict[Hashable, int] = {}
        self._run: object = None  # the memory of the sampling that is going on
        self._before: object = None  # and of the one that it interrupted

    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[object, ...]:
        return _none, ()

    def __call__(
        self, denoiser: Denoiser, x: Tensor, told: Tensor, cond: Embedding, call: Call, level: Level
    ) -> Output:
        """The network's output; see `suffuse.models.denoiser.Planned`."""
        network = denoiser.network
        step, key = call.step or 0, (call.streams, call.substep)
        if self._begins(call, key):
            self.layers.begin()

        def at(x: Tensor, told: Tensor, cond: Embedding, seeds: Tensor | None) -> Evaluate:
            def evaluate(**asked: Any) -> Output:  # Any: as for `Network.forward`
                if asked.get("tokens") is None:  # only networks of tokens take them
                    asked.pop("tokens", None)
                output: Output = network(x, told, cond, seeds=seeds, **asked)
                return output

            return evaluate

        def ahead(count: int) -> Evaluate:
            later = torch.cat([denoiser.told(t, len(x)) for t in call.times[step : step + count]])
            return at(repeated(x, count), later, repeated(cond, count), repeated(call.seeds, count))

        def sample() -> Tensor:
            beside = 0 if cond.image is None else cond.image.shape[1]
            return x[:, : x.shape[1] - beside] / denoiser.prediction.c_in(level.alpha, level.sigma, denoiser.sigma_data)  # type: ignore[type-var]  # both of one kind

        # A flow map's target goes with the condition, and later steps have others.
        alone = call.substep == 0 and call.target is None and len(call.times) > step
        moment = Moment(step, call.steps, x, _place(level, step), ahead if alone else None, sample)
        shapes = (x.shape[1:], x.dtype, None if cond.tokens is None else cond.tokens.shape[1:])
        return self.layers.run(at(x, told, cond, call.seeds), moment, key, shapes, call.taps)

    def _begins(self, call: Call, key: Hashable) -> bool:
        """Whether a run begins with a call; outside a sampling loop every call is one of its own."""
        step = -1 if call.step is None else call.step
        self._check_run(call, key, step)
        begins = (
            step < max(self._steps.values(), default=step)
            or step <= self._steps.get(key, -1)
            or call.times != self._times
            or call.step is None
            or not self._steps
        )
        if begins:
            self._steps.clear()
        self._times, self._steps[key] = call.times, step
        return begins

    def _check_run(self, call: Call, key: Hashable, step: int) -> None:
        """Refuse what a memory of one trajectory cannot follow: two at once, and steps that are tried again.

        Raises:
            UsageError: Says which.
        """
        if call.memory is None:
            return
        if call.memory is self._before:
            raise UsageError(
                "two samplings run at once under one plan, which remembers one of them; let one end before the other "
                "begins, or give each a copy of the model"
            )
        if call.memory is not self._run:
            self._before, self._run = self._run, call.memory
        elif call.substep and step == self._steps.get(key):
            raise UsageError(
                "a solver that tries a step again, such as 'adaptive', cannot be sampled under a plan; choose another"
            )


def _place(level: Level, step: int) -> float:
    """Where on the way a call is, 1 at pure noise: the time of the flow path, finite at both ends of every path."""
    if isinstance(level.sigma, Tensor):
        return float(step)
    return float(level.sigma / (level.alpha + level.sigma))
