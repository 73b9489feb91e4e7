"""Plans: at each network call, which blocks compute, which reuse what an earlier call gave, and on which tokens.

A plan stands before a network. It is asked at every call, and asks the network for part of its work: for features
(`taps`), with features that need not be computed again (`given`), on some of its tokens. `suffuse.acceleration.applied`
puts it there.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.networks.contract import Network, Output, Tokens, needed_blocks

if TYPE_CHECKING:
    from suffuse.acceleration.timeline import Timeline
    from suffuse.base.conditions import Conditions
    from suffuse.models.denoiser import Denoiser

__all__ = ["Ask", "Asked", "Evaluate", "Moment", "PlanPart", "Policy", "checked_steps"]


class Evaluate(Protocol):
    """A network under one call's arguments, of which part can be evaluated; see `Network.forward`."""

    def __call__(
        self, *, taps: tuple[str, ...] = (), given: Mapping[str, Tensor] | None = None, tokens: Tokens | None = None
    ) -> Output:
        """Evaluate."""
        ...


@dataclass(frozen=True)
class Asked:
    """What one call asked of the network, for reports.

    Attributes:
        computed: Names of the blocks that ran, in order of execution.
        tokens: Share of the tokens on which they ran.
        calls: How many sampling steps were evaluated in one batch.
    """

    computed: tuple[str, ...]
    tokens: float = 1.0
    calls: int = 1


@dataclass(frozen=True)
class Moment:
    """When a plan is asked.

    Attributes:
        step: Number of the call in its run, from 0: the solver's step where that is known.
        steps: Calls that the run will have; None when nobody knows.
        x: The network's input, (B, C, ...).
        sample: () -> the noisy samples in it, (B, C', ...): unscaled, and without conditions that stand beside them.
        place: Where on the way the call is: sigma / (alpha + sigma), or the step where that is not known.
        ahead: (count) -> the network under the arguments of this call and of the count - 1 next ones, stacked along
            the batch in that order; None where these are not known, as in Heun's second evaluation.
    """

    step: int
    steps: int | None
    x: Tensor
    place: float
    ahead: Callable[[int], Evaluate] | None = None
    sample: Callable[[], Tensor] | None = None


class Ask:
    """What a policy asks the network with; what others ask of the same call goes along.

    Args:
        evaluate: The network under the call's arguments.
        graph: The network's.
        taps, given, tokens: What others ask.
        note: Told of everything that ran.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        graph: Mapping[str, tuple[str, ...]],
        *,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
        tokens: Tokens | None = None,
        note: Callable[[Asked], None] = lambda asked: None,
    ) -> None:
        self.evaluate, self.graph, self.note = evaluate, graph, note
        self.taps, self.given, self.tokens = taps, given or {}, tokens

    def __call__(
        self, *, taps: tuple[str, ...] = (), given: Mapping[str, Tensor] | None = None, tokens: Tokens | None = None
    ) -> Output:
        """The output, and the features asked for by anybody."""
        taps = (*self.taps, *(tap for tap in taps if tap not in self.taps))
        given, tokens = {**(given or {}), **self.given}, tokens or self.tokens
        output = self.evaluate(taps=taps, given=given, tokens=tokens)
        self._tell(("output", *taps), given, tokens)
        return output

    def probe(self, *names: str, given: Mapping[str, Tensor] | None = None) -> tuple[Tensor, ...]:
        """Features alone: what only leads to the output does not run."""
        given = {**(given or {}), **self.given}
        features = self.evaluate(taps=names, given={**given, "output": torch.empty(0)}, tokens=self.tokens).features
        self._tell(names, given, self.tokens)
        return tuple(features[name] for name in names)

    def stacked(self, evaluate: Evaluate, calls: int, *, given: Mapping[str, Tensor]) -> Output:
        """The outputs of several sampling steps in one batch, by `Moment.ahead`."""
        output = evaluate(given=given)
        self.note(Asked(needed_blocks(self.graph, given), calls=calls))
        return output

    def _tell(self, targets: Iterable[str], given: Mapping[str, Tensor], tokens: Tokens | None) -> None:
        share = 1.0
        if tokens is not None and tokens.index is not None:
            share = tokens.index.shape[1] / tokens.memory.kept["output"].shape[1]
        self.note(Asked(needed_blocks(self.graph, given, targets), share))


class Policy(Protocol):
    """A plan at work on one stream of one run; it remembers what it needs from call to call."""

    def __call__(self, ask: Ask, moment: Moment) -> Output:
        """Evaluate the network at a moment."""
        ...


class PlanPart(Part, abc.ABC):
    """A plan.

    Attributes:
        owns: What the plan decides on; two plans that decide on the same cannot be applied together.
    """

    kind: str
    owns: ClassVar[frozenset[Literal["blocks", "tokens", "attention"]]] = frozenset({"blocks"})

    @property
    def reuses(self) -> bool:
        """Whether it hands features from one call to another."""
        return bool(self.owns & {"blocks", "tokens"})

    @abc.abstractmethod
    def bind(self, network: Network, steps: int | None) -> Policy:
        """A policy for one stream of one run.

        Args:
            network: Before which it stands.
            steps: Calls that the run will have; None when nobody knows.

        Raises:
            UsageError: The network has no blocks of the kind that the plan is about, or the schedule does not fit.
        """

    def check(self, network: Network) -> None:
        """Raise a `UsageError` for a network that the plan is not for."""
        self.bind(network, None)

    def describe(
        self, model: Denoiser, steps: int, *, shape: tuple[int, ...] | None = None, cond: Conditions | None = None
    ) -> Timeline:
        """What will compute at each step of a run, and what it costs: `table()` prints it, `draw(path)` draws it.

        Args:
            model: A denoiser.
            steps: Evaluations of the run.
            shape: Of a sample; that of the model's configuration when None.
            cond: Conditions of one sample; None for a model without.

        Raises:
            UsageError: The plan does not fit the model, or decides while it runs.
        """
        from suffuse.acceleration.macs import denoiser_macs

        return self.preview(model.network, steps).with_macs(denoiser_macs(model, shape, cond))

    def preview(self, network: Network, steps: int) -> Timeline:
        """What will compute at each step: no number is computed.

        Raises:
            UsageError: The plan decides while it runs.
        """
        from suffuse.acceleration.timeline import Timeline

        asked: list[list[Asked]] = []

        def nothing(count: int = 1) -> Evaluate:
            def evaluate(
                *, taps: tuple[str, ...] = (), given: Mapping[str, Tensor] | None = None, tokens: Tokens | None = None
            ) -> Output:
                return Output(torch.zeros(count), dict.fromkeys(taps, torch.zeros(1)))

            return evaluate

        policy = self.bind(network, steps)
        for step in range(steps):
            asked.append([])
            moment = Moment(step, steps, torch.zeros(1), float(step), ahead=nothing)
            policy(Ask(nothing(), network.graph, note=asked[-1].append), moment)
        return Timeline(tuple(network.graph), tuple(tuple(calls) for calls in asked))


def checked_steps(steps: int | None, plan: PlanPart) -> int:
    """The number of calls, where a schedule needs to know it.

    Raises:
        UsageError: Nobody knows it.
    """
    if steps is None:
        raise UsageError(
            f"plan {plan.kind!r} with this schedule needs to know the number of steps; apply it to the pipeline rather "
            "than to the network, or give steps"
        )
    return steps
