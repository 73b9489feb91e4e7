"""Plans before networks of diffusers: the forward of the model itself is replaced, and its scheduler tells the runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from suffuse.acceleration.layers import Applied, Layer, check_together, run_layers
from suffuse.acceleration.macs import MacCounter
from suffuse.acceleration.plan import Evaluate, Moment, PlanPart
from suffuse.acceleration.repeat import repeated
from suffuse.base.errors import UsageError
from suffuse.networks.contract import Output
from suffuse.networks.external import DiffusersNetwork
from suffuse.networks.external.patching import replaced_forwards

__all__ = ["applied_to_model", "network_of"]

_COMPONENTS = ("unet", "transformer")
# A forward that another package put into an instance: accelerate's offloading and diffusers' hooks run what they
# replaced, so they may stay.
_HOOKS = ("_hf_hook", "_diffusers_hook")


def network_of(target: Any) -> tuple[nn.Module, Any]:  # Any: a model or a pipeline of an optional package
    """The network of a pipeline and its scheduler; a network itself and None.

    Raises:
        UsageError: Neither.
    """
    if isinstance(target, nn.Module):
        return target, None
    for name in _COMPONENTS:
        model = getattr(target, name, None)
        if isinstance(model, nn.Module):
            return model, getattr(target, "scheduler", None)
    raise UsageError(
        f"a plan cannot be applied to {type(target).__name__}: give a Denoiser, a network of diffusers, or a pipeline "
        f"with a component {' or '.join(_COMPONENTS)}"
    )


@contextmanager
def applied_to_model(
    model: nn.Module, scheduler: Any, plan: PlanPart, *, steps: int | None, streams: int, counter: MacCounter | None
) -> Iterator[Applied]:
    """Put a plan before a diffusers network; arguments as for `applied`."""
    if streams < 1 or (steps is not None and steps < 1):
        raise UsageError(f"streams is {streams} and steps {steps}; both count from 1")
    if hasattr(model, "_orig_mod"):
        raise UsageError(
            f"this {type(model._orig_mod).__name__} is compiled as a whole; apply plans to a network that is not"
        )
    before = model.__dict__.get("forward")
    before = before if isinstance(before, _PlannedForward) else None
    _check_untouched(model, before)
    network = before.network if before is not None else DiffusersNetwork(model)
    layers = () if before is None else before.layers
    check_together(layers, plan)
    plan.check(network)
    found = Applied(plan, network, counter)
    whole = model.forward if before is None else before.whole
    calls = _Calls(steps, streams) if before is None else before.calls
    planned = _PlannedForward(network, whole, (*layers, Layer(found, {})), calls)
    with replaced_forwards({model: planned}), _told_by(scheduler, planned):
        yield found


def _check_untouched(model: nn.Module, ours: object) -> None:
    for name, module in model.named_modules():
        forward = module.__dict__.get("forward")
        if forward is None or forward is ours or any(hasattr(module, hook) for hook in _HOOKS):
            continue
        # Its own, put back as an attribute by somebody who has tidied up.
        if (
            isinstance(forward, MethodType)
            and forward.__self__ is module
            and forward.__func__ is getattr(type(module), "forward", None)
        ):
            continue
        raise UsageError(
            f"the forward of {name or type(model).__name__} was already replaced by something else (another cache?); "
            "take that back before applying a plan"
        )


class _Calls:
    """Counts the calls of a network: which step of the run, which of its streams.

    Args:
        steps: Calls of a run in each stream; None when nobody says.
        streams: Calls at each step.
    """

    def __init__(self, steps: int | None, streams: int) -> None:
        self.steps, self.streams = steps, streams
        self.known = steps is not None
        self.times: Tensor | None = None
        self.count = 0
        self._last: float | None = None

    def begin(self, times: Tensor) -> None:
        """A scheduler has set its times: a run begins."""
        self.times, self.count = times, 0
        self.steps = len(times) if not self.known else self.steps

    def next(self, timestep: Any) -> tuple[int, int]:  # Any: as diffusers' networks take it
        """Step and stream of a call."""
        if self.times is None:
            self._watch(timestep)
        if self.steps is not None and self.count >= self.steps * self.streams:
            raise UsageError(
                f"the network was called more than {self.steps * self.streams} times in a run of {self.steps} steps; "
                "if it is called several times at each step, say how many by `streams`; if the scheduler was changed, "
                "apply the plan after that"
            )
        step, stream = divmod(self.count, self.streams)
        self.count += 1
        return step, stream

    def _watch(self, timestep: Any) -> None:
        """Without a scheduler a time that rises, or a run that is full, begins the next run."""
        now = float(torch.as_tensor(timestep).max())
        full = self.steps is not None and self.count == self.steps * self.streams
        if full or (self._last is not None and now > self._last):
            self.count = 0
        self._last = now


class _PlannedForward:
    """A diffusers network's forward under plans."""

    def __init__(
        self, network: DiffusersNetwork, whole: Callable[..., Any], layers: tuple[Layer, ...], calls: _Calls
    ) -> None:
        self.network, self.whole, self.layers, self.calls = network, whole, layers, calls
        self.signature = inspect.signature(whole)
        self._answers: type | None = None

    def begin(self, times: Tensor) -> None:
        """A run begins."""
        self.calls.begin(times)
        for layer in self.layers:
            layer.policies.clear()

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The model's own signature and kinds of answer."""
        arguments = self.signature.bind(*args, **options).arguments
        x: Tensor = arguments["sample"] if "sample" in arguments else arguments["hidden_states"]
        step, stream = self.calls.next(arguments["timestep"])
        answers: list[Any] = []

        def at(arguments: dict[str, Any]) -> Evaluate:
            def whole() -> Tensor:
                answers.append(self.whole(**arguments))
                value: Tensor = answers[-1][0]
                return value

            def evaluate(**asked: Any) -> Output:
                return self.network.partially(whole, **asked)

            return evaluate

        def ahead(count: int) -> Evaluate:
            assert self.calls.times is not None
            later = self.calls.times[step : step + count].to(x.device).repeat_interleave(len(x))
            return at({**repeated(arguments, count, batch=len(x)), "timestep": later})

        known = self.calls.times is not None and self.calls.streams == 1
        moment = Moment(step, self.calls.steps, x, float(step), ahead if known else None)
        value = run_layers(self.layers, self.network, at(arguments), moment, stream).value
        return self._answer(value, answers, arguments)

    def _answer(self, value: Tensor, answers: list[Any], arguments: dict[str, Any]) -> Any:
        """The output as the caller expects it: a tuple, or the model's own class."""
        if arguments.get("return_dict", True) is False:
            return (value,)
        if answers:
            self._answers = type(answers[-1])
        assert self._answers is not None, "the first call of a run calls the model"
        return self._answers(sample=value)


@contextmanager
def _told_by(scheduler: Any, planned: _PlannedForward) -> Iterator[None]:
    """Let a scheduler tell when a run begins: all pipelines set its times before they sample."""
    if scheduler is None:
        yield
        return
    before = scheduler.__dict__.get("set_timesteps")
    original = scheduler.set_timesteps

    # Pipelines look at the signature, which `wraps` passes on.
    @functools.wraps(original)
    def set_timesteps(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        planned.begin(scheduler.timesteps)
        return result

    scheduler.set_timesteps = set_timesteps
    try:
        yield
    finally:
        if before is None:
            del scheduler.set_timesteps
        else:
            scheduler.set_timesteps = before
