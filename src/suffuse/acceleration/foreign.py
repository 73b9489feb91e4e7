"""Plans before networks of diffusers: the forward of the model itself is replaced, and its scheduler tells the runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from suffuse.acceleration.layers import Applied, Layers
from suffuse.acceleration.macs import MacCounter
from suffuse.acceleration.plan import Evaluate, Moment, PlanPart
from suffuse.acceleration.repeat import repeated
from suffuse.base.errors import UsageError
from suffuse.networks.contract import Output
from suffuse.networks.external import DiffusersNetwork
from suffuse.networks.external.patching import give_back, put_before

__all__ = ["applied_to_model", "network_of"]

_COMPONENTS = ("unet", "transformer")
# Parts of the names of diffusers' hooks that skip blocks themselves. Its others, and accelerate's, run what they
# replaced.
_CACHES = ("cache", "fbc", "pyramid", "taylor")


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
    planned = _planned_before(model)
    _check_untouched(model, planned)
    if planned is None:
        planned = _PlannedForward(model, _wrapped(model), _Calls(steps, streams))
    elif (streams, steps) not in ((1, None), (planned.calls.streams, planned.calls.given)):
        raise UsageError(
            f"the context outside counts {planned.calls.streams} streams and {planned.calls.given} steps, this one "
            f"{streams} and {steps}; say the same in both, or nothing in the inner one"
        )
    layer = planned.layers.add(plan, counter)
    try:
        planned.install(scheduler)
        yield layer.applied
    finally:
        planned.layers.layers.remove(layer)
        if not planned.layers.layers:
            planned.remove()


def _wrapped(model: nn.Module) -> DiffusersNetwork:
    """The network under our contract, its modules in the mode in which they were."""
    training = [module for module in model.modules() if module.training]
    network = DiffusersNetwork(model)
    for module in training:
        module.training = True
    return network


def _planned_before(model: nn.Module) -> _PlannedForward | None:
    """What an outer context has put before the network, also where a hook has been put before it since."""
    for forward in (model.__dict__.get("forward"), getattr(model, "_old_forward", None)):
        if isinstance(forward, _PlannedForward):
            return forward
    return None


def _check_untouched(model: nn.Module, ours: object) -> None:
    for name, module in model.named_modules():
        forward = module.__dict__.get("forward")
        if forward is None or forward is ours or hasattr(module, "_hf_hook"):
            continue
        if hasattr(module, "_diffusers_hook") and not _caches(module._diffusers_hook):
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


def _caches(registry: Any) -> bool:  # Any: a class of an optional package
    return any(part in name for name in registry.hooks for part in _CACHES)


class _Calls:
    """Counts the calls of a network: which step of the run, which of its streams.

    Args:
        steps: Calls of a run in each stream; None when nobody says.
        streams: Calls at each step.
    """

    def __init__(self, steps: int | None, streams: int) -> None:
        self.given, self.streams = steps, streams
        self.steps = steps
        self.times: Tensor | None = None
        self.count = 0
        self._told = False
        self._last: float | None = None

    def begin(self, times: Tensor) -> None:
        """A scheduler has set its times: a run begins."""
        self.times, self.steps, self.count, self._told = times, self.given or len(times), 0, True

    def next(self, timestep: Any) -> tuple[int, int]:  # Any: as diffusers' networks take it
        """Step and stream of a call."""
        if not self._told:
            self._watch(timestep)
        elif self.count == 0:
            self._start_at(timestep)
        if self.steps is not None and self.count >= self.steps * self.streams:
            raise UsageError(
                f"the network was called more than {self.steps * self.streams} times in a run of {self.steps} steps; "
                "if it is called several times at each step, say how many by `streams`; if the scheduler was changed, "
                "apply the plan after that"
            )
        step, stream = divmod(self.count, self.streams)
        self.count += 1
        return step, stream

    def _start_at(self, timestep: Any) -> None:
        """Image to image starts late in its scheduler's times: those before are no part of the run."""
        assert self.times is not None
        if isinstance(timestep, Tensor) and timestep.is_meta:  # only counting: no time has a value
            return
        found = (self.times == torch.as_tensor(timestep).flatten()[0].to(self.times)).nonzero()
        if len(found):
            self.times = self.times[int(found[0]) :]
            self.steps = self.given or len(self.times)
        else:  # the network is told something else than the scheduler's times
            self.times = None

    def _watch(self, timestep: Any) -> None:
        """Without a scheduler a time that rises, or a run that is full, begins the next run."""
        now = float(torch.as_tensor(timestep).max())
        full = self.steps is not None and self.count == self.steps * self.streams
        if full or (self._last is not None and now > self._last):
            self.count = 0
        self._last = now


class _PlannedForward:
    """A diffusers network's forward under plans.

    Args:
        model: The network.
        network: It, under our contract.
        calls: Counts its calls.
    """

    def __init__(self, model: nn.Module, network: DiffusersNetwork, calls: _Calls) -> None:
        self.model, self.network, self.calls = model, network, calls
        self.layers = Layers(network)
        self.whole: Callable[..., Any] = model.forward
        self._telling: list[_Telling] = []
        self._signature = inspect.signature(self.whole)
        self._answers: type | None = None

    def __deepcopy__(self, memo: object) -> None:
        raise UsageError("a network cannot be copied while a plan is applied to it; copy it outside of `with applied`")

    def __reduce__(self) -> str:
        raise UsageError("a network cannot be saved while a plan is applied to it; save it outside of `with applied`")

    def install(self, scheduler: Any) -> None:
        """Stand before the network, and listen to a pipeline's scheduler."""
        self._stand()
        if scheduler is not None and not any(telling.scheduler is scheduler for telling in self._telling):
            self._telling.append(_Telling(scheduler, self))

    def remove(self) -> None:
        """Give everything back, also to a hook that came since."""
        for telling in self._telling:
            telling.remove()
        self._telling.clear()
        if self.model.__dict__.get("forward") is self:
            give_back(self.model, self.whole)
        elif getattr(self.model, "_old_forward", None) is self:
            self.model._old_forward = self.whole

    def _stand(self) -> None:
        """Hooks that are taken off and put on again (offloading, after every run) leave this out."""
        present = self.model.__dict__.get("forward")
        if present is not self and getattr(self.model, "_old_forward", None) is not self:
            self.whole = self.model.forward
            put_before(self.model, self)

    def begin(self, times: Tensor) -> None:
        """A run begins."""
        self._stand()
        self.calls.begin(times)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The model's own signature and kinds of answer."""
        arguments = self._signature.bind(*args, **options).arguments
        if arguments.get("down_intrablock_additional_residuals") is not None:
            raise UsageError(
                "T2I adapters add to features inside the levels that plans skip; use the pipeline without plans, or "
                "without the adapter"
            )
        x: Tensor = arguments["sample"] if "sample" in arguments else arguments["hidden_states"]
        step, stream = self.calls.next(arguments["timestep"])
        if step == 0 and stream == 0:
            self.layers.begin()
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

        channels = self.network.widths["output"]
        known = self.calls.times is not None and self.calls.streams == 1
        moment = Moment(
            step, self.calls.steps, x, float(step), ahead if known else None, sample=lambda: x[:, :channels]
        )
        value = self.layers.run(at(arguments), moment, stream, _shapes(arguments)).value
        return self._answer(value, answers, arguments)

    def _answer(self, value: Tensor, answers: list[Any], arguments: dict[str, Any]) -> Any:
        """The output as the caller expects it: a tuple, or the model's own class."""
        if arguments.get("return_dict", True) is False:
            return (value,)
        if answers:
            self._answers = type(answers[-1])
        assert self._answers is not None, "the first call of a run calls the model"
        return self._answers(sample=value)


def _shapes(value: Any) -> Hashable:
    """Shapes and types of all tensors in arguments, without the batch."""
    if isinstance(value, Tensor):
        return (value.shape[1:], value.dtype)
    if isinstance(value, dict):
        return tuple((name, _shapes(item)) for name, item in value.items())
    return tuple(map(_shapes, value)) if isinstance(value, list | tuple) else None


class _Telling:
    """A scheduler's `set_timesteps` that also tells that a run begins: all pipelines call it before they sample.

    Args:
        scheduler: The scheduler.
        planned: Who is told.
    """

    def __init__(self, scheduler: Any, planned: _PlannedForward) -> None:
        self.scheduler, self.planned = scheduler, planned
        self.before = scheduler.__dict__.get("set_timesteps")
        self.original = scheduler.set_timesteps
        # Pipelines look at the signature, which this passes on.
        functools.update_wrapper(self, self.original)
        scheduler.set_timesteps = self

    def __deepcopy__(self, memo: object) -> None:
        raise UsageError("a scheduler cannot be copied while a plan listens to it; copy it outside of `with applied`")

    def __call__(self, *args: Any, **options: Any) -> Any:
        result = self.original(*args, **options)
        self.planned.begin(self.scheduler.timesteps)
        return result

    def remove(self) -> None:
        """Give the scheduler its own back."""
        if self.before is None:
            self.scheduler.__dict__.pop("set_timesteps", None)
        else:
            self.scheduler.set_timesteps = self.before
