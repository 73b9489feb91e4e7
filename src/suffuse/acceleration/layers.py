"""The plans before one network: their policies run by run, and what they asked for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad

from suffuse.acceleration.macs import BlockMacs, MacCounter
from suffuse.acceleration.plan import Ask, Asked, Evaluate, Moment, PlanPart, Policy
from suffuse.acceleration.timeline import Timeline
from suffuse.base.errors import UsageError
from suffuse.networks.contract import Network, Output, Tokens

__all__ = ["Applied", "Layer", "Layers"]


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
        policies: By stream, of the run that goes on.
    """

    applied: Applied
    policies: dict[Hashable, Policy] = field(default_factory=dict)

    def begin(self) -> None:
        """Forget the run before."""
        self.policies.clear()
        self.applied.begin()


class Layers:
    """The plans before one network, the last one outermost. Contexts add theirs and take them away, in any order.

    Args:
        network: The network.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.layers: list[Layer] = []

    def add(self, plan: PlanPart, counter: MacCounter | None) -> Layer:
        """Put a plan before all others.

        Raises:
            UsageError: It is for another kind of network, or another plan decides on the same.
        """
        for layer in self.layers:
            both = layer.applied.plan.owns & plan.owns
            if both:
                raise UsageError(
                    f"plan {plan.kind!r} cannot be applied together with {layer.applied.plan.kind!r}: both decide on "
                    f"the network's {' and '.join(sorted(both))}; leave one of them out"
                )
        plan.check(self.network)
        self.layers.append(Layer(Applied(plan, self.network, counter)))
        return self.layers[-1]

    def begin(self) -> None:
        """A run begins."""
        for layer in self.layers:
            layer.begin()

    def run(
        self, evaluate: Evaluate, moment: Moment, key: Hashable, shapes: Hashable, taps: tuple[str, ...] = ()
    ) -> Output:
        """Evaluate the network through all plans.

        Args:
            evaluate: The network under the call's arguments.
            moment: Of the call.
            key: The stream.
            shapes: What else the cost of a row of the call depends on: shapes and types of the arguments.
            taps: What the caller itself wants.

        Raises:
            UsageError: Derivatives are taken through the call.
        """
        _check_derivatives(moment.x)
        for layer in self.layers:
            if not layer.applied.runs:  # applied in the middle of a run
                layer.begin()
        ahead = moment.ahead
        if ahead is not None:
            moment = replace(moment, ahead=lambda count: self._counted(ahead(count), moment.x, shapes, count))
        output = self._through(len(self.layers), self._counted(evaluate, moment.x, shapes), moment, key)(taps=taps)
        if (
            torch.is_grad_enabled()
            and output.value.requires_grad
            and any(layer.applied.plan.reuses for layer in self.layers)
        ):
            raise UsageError(
                "under a plan a network holds features of other steps, so that derivatives in its weights would be "
                "wrong; call it under torch.no_grad(), or train outside of `with applied`"
            )
        return output

    def _through(self, count: int, evaluate: Evaluate, moment: Moment, key: Hashable) -> Evaluate:
        """The network through so many of the layers, from the innermost."""
        for place, layer in enumerate(self.layers[:count]):
            evaluate = self._under(place, layer, evaluate, moment, key)
        return evaluate

    def _under(self, place: int, layer: Layer, evaluate: Evaluate, moment: Moment, key: Hashable) -> Evaluate:
        plan = layer.applied.plan
        if key not in layer.policies:
            layer.policies[key] = plan.bind(self.network, moment.steps)
        policy, ahead = layer.policies[key], moment.ahead
        if ahead is not None and place:
            # What stands inside of this plan stands before the decoders of later steps too.
            later = replace(moment, ahead=None)
            moment = replace(moment, ahead=lambda count: self._through(place, ahead(count), later, key))

        def through(
            *, taps: tuple[str, ...] = (), given: Mapping[str, Tensor] | None = None, tokens: Tokens | None = None
        ) -> Output:
            def note(asked: Asked) -> None:
                layer.applied.note(key, moment.step, asked)

            return policy(Ask(evaluate, self.network.graph, taps=taps, given=given, tokens=tokens, note=note), moment)

        return through

    def _counted(self, evaluate: Evaluate, x: Tensor, shapes: Hashable, calls: int = 1) -> Evaluate:
        """The network itself; what its calls take is added to every plan that counts."""
        counting = [layer.applied for layer in self.layers if layer.applied.counter is not None]
        if not counting:
            return evaluate
        plans = tuple(layer.applied.plan for layer in self.layers)

        def counted(
            *, taps: tuple[str, ...] = (), given: Mapping[str, Tensor] | None = None, tokens: Tokens | None = None
        ) -> Output:
            some = None if tokens is None or tokens.index is None else tokens.index.shape[1]
            kind = (self.network, plans, shapes, taps, frozenset(given or ()), some)
            call: Callable[[], Output] = lambda: evaluate(taps=taps, given=given, tokens=tokens)  # noqa: E731
            counter = counting[0].counter
            assert counter is not None
            output, macs = counter.run(call, kind, len(x) * calls)
            for applied in counting:
                applied.macs += macs
            return output

        return counted


def _check_derivatives(x: Tensor) -> None:
    backward = torch.is_grad_enabled() and x.requires_grad
    if backward or forward_ad.unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
        raise UsageError(
            "derivatives through a network under a plan would be wrong: it holds features of other steps; take them "
            "outside of `with applied`"
        )
