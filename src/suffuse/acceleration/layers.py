"""Layers: the plans that stand before one network, each with its policies, and what they asked for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad

from suffuse.acceleration.macs import BlockMacs, MacCounter
from suffuse.acceleration.plan import Ask, Asked, Evaluate, Moment, PlanPart, Policy
from suffuse.acceleration.timeline import Timeline
from suffuse.base.errors import UsageError
from suffuse.networks.contract import Network, Output, Tokens

__all__ = ["Applied", "Layer", "check_together", "run_layers"]


class Applied:
    """What came of applying a plan: of the run that goes on, or of the last one.

    Attributes:
        plan: The plan.
        runs: Runs that have begun.
        macs: Multiply-accumulates of all calls since the plan was applied, where they are counted.
    """

    def __init__(self, plan: PlanPart, network: Network, counter: MacCounter | None = None) -> None:
        self.plan, self.network, self.counter = plan, network, counter
        self.runs = 0
        self.macs = 0.0
        self._asked: dict[Hashable, dict[int, list[Asked]]] = {}

    def begin(self) -> None:
        """A new run begins."""
        self.runs += 1
        self._asked.clear()

    def note(self, key: Hashable, step: int, asked: Asked) -> None:
        """Something was asked at a step of a stream."""
        self._asked.setdefault(key, {}).setdefault(step, []).append(asked)

    def counting(self, evaluate: Evaluate, shape: torch.Size, counter: MacCounter) -> Evaluate:
        """The network, with the multiply-accumulates of each call added to `macs`."""

        def counted(
            *, taps: tuple[str, ...] = (), given: Mapping[str, Tensor] | None = None, tokens: Tokens | None = None
        ) -> Output:
            some = None if tokens is None or tokens.index is None else tokens.index.shape[1]
            kind = (self.network, self.plan, shape[1:], taps, frozenset(given or ()), some)
            output, macs = counter.run(lambda: evaluate(taps=taps, given=given, tokens=tokens), kind, shape[0])
            self.macs += macs
            return output

        return counted

    def timeline(self, macs: BlockMacs | None = None) -> Timeline:
        """What computed at which step of the last run, in its first stream.

        Args:
            macs: Cost of each block, see `block_macs`.

        Raises:
            UsageError: Nothing was sampled.
        """
        if not self._asked:
            raise UsageError("nothing was sampled under the plan; call the model or the pipeline inside `with applied`")
        steps = next(iter(self._asked.values()))
        return Timeline(
            tuple(self.network.graph),
            tuple(tuple(steps.get(step, ())) for step in range(max(steps) + 1)),
            macs,
        )


@dataclass
class Layer:
    """A plan before a network.

    Attributes:
        applied: The plan, and what came of it.
        policies: By stream, with the step of its last call.
    """

    applied: Applied
    policies: dict[Hashable, tuple[Policy, int]]

    def begin(self) -> None:
        """Forget the run before."""
        self.policies.clear()
        self.applied.begin()

    def policy(self, key: Hashable, network: Network, step: int, steps: int | None) -> Policy:
        """The stream's policy; a stream whose step does not rise begins a new run."""
        known = self.policies.get(key)
        if not self.policies or (known is not None and step <= known[1]):
            self.begin()
            known = None
        policy = self.applied.plan.bind(network, steps) if known is None else known[0]
        self.policies[key] = (policy, step)
        return policy


def check_together(layers: Sequence[Layer], plan: PlanPart) -> None:
    """Raise a `UsageError` when another plan already decides on what this one is about."""
    for layer in layers:
        both = layer.applied.plan.owns & plan.owns
        if both:
            raise UsageError(
                f"plan {plan.kind!r} cannot be applied together with {layer.applied.plan.kind!r}: both decide on the "
                f"network's {' and '.join(sorted(both))}; leave one of them out"
            )


def run_layers(
    layers: Sequence[Layer],
    network: Network,
    evaluate: Evaluate,
    moment: Moment,
    key: Hashable,
    taps: tuple[str, ...] = (),
) -> Output:
    """Evaluate a network through its layers, the last one outermost.

    Args:
        layers: At least one.
        network: The network.
        evaluate: It, under the call's arguments.
        moment: Of the call.
        key: The stream.
        taps: What the caller itself wants.

    Raises:
        UsageError: Derivatives are taken through the call.
    """
    _check_derivatives(moment.x)
    for layer in layers:
        evaluate = _under(layer, network, evaluate, moment, key)
    return evaluate(taps=taps)


def _under(layer: Layer, network: Network, evaluate: Evaluate, moment: Moment, key: Hashable) -> Evaluate:
    applied = layer.applied
    policy = layer.policy(key, network, moment.step, moment.steps)
    if (counter := applied.counter) is not None:
        shape, ahead = moment.x.shape, moment.ahead
        evaluate = applied.counting(evaluate, shape, counter)
        if ahead is not None:
            moment = replace(moment, ahead=lambda count: applied.counting(ahead(count), _times(shape, count), counter))

    def through(
        *, taps: tuple[str, ...] = (), given: Mapping[str, Tensor] | None = None, tokens: Tokens | None = None
    ) -> Output:
        def note(asked: Asked) -> None:
            applied.note(key, moment.step, asked)

        return policy(Ask(evaluate, network.graph, taps=taps, given=given, tokens=tokens, note=note), moment)

    return through


def _times(shape: torch.Size, count: int) -> torch.Size:
    return torch.Size((shape[0] * count, *shape[1:]))


def _check_derivatives(x: Tensor) -> None:
    backward = torch.is_grad_enabled() and x.requires_grad
    if backward or forward_ad.unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
        raise UsageError(
            "derivatives through a network under a plan would be wrong: it holds features of other steps; take them "
            "outside of `with applied`"
        )
