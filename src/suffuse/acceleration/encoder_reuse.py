"""Faster Diffusion: a U-Net's encoder runs at key steps only, and decoders of several steps run in one batch.

Source: li2024fasterdiffusion.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator

from suffuse.acceleration.deepcache import decoder_blocks
from suffuse.acceleration.plan import Ask, Moment, Policy
from suffuse.acceleration.reuse import ScheduledPlan, check_sizes
from suffuse.base.errors import UsageError
from suffuse.networks.contract import Network, Output

__all__ = ["PUBLISHED_STEPS", "EncoderReuse"]

# The paper's key steps of 50, from the noisiest.
PUBLISHED_STEPS = (0, 1, 2, 3, 5, 10, 15, 25, 35)
_OF = 50


class EncoderReuse(ScheduledPlan):
    """The skips and what leaves the middle are kept at key steps; between them the decoder alone runs.

    The network does not see the samples of the other steps: only the time, the condition and the solver's step are
    theirs. Source: li2024fasterdiffusion, Section 3.2.

    Attributes:
        schedule: `published` are the paper's nine of 50 steps, brought to the number of steps; the others as elsewhere.
            With `every` or `refresh` and nothing else it is `uniform`.
        parallel: Run the decoders of a key step and of those after it in one batch, which needs the times beforehand
            and so many times the memory. Solvers with one evaluation a step only.
    """

    kind: Literal["encoder_reuse"] = "encoder_reuse"
    schedule: Literal["published", "uniform", "power", "published_power"] = "published"  # type: ignore[assignment]  # one more
    every: int = Field(default=5, ge=1)
    parallel: bool = False

    @model_validator(mode="before")
    @classmethod
    def _own_steps(cls, data: object) -> object:
        """Steps that are said are even, if nothing else is."""
        if isinstance(data, dict) and "schedule" not in data and {"every", "refresh"} & data.keys():
            return {**data, "schedule": "uniform"}
        return data

    @model_validator(mode="after")
    def _one_rule(self) -> EncoderReuse:
        if self.schedule == "published" and (self.every != 5 or self.refresh is not None):
            raise ValueError(
                "the published schedule has steps of its own; set schedule=uniform for `every` or `refresh`"
            )
        return self

    @model_validator(mode="after")
    def _as_they_were(self) -> EncoderReuse:
        if self.parallel and self.order:
            raise ValueError("parallel decoders read what was kept as it was; set order=0")
        return self

    def names(self, network: Network) -> tuple[str, ...]:
        """All skips, and what enters the first decoder block."""
        blocks = decoder_blocks(network)
        if not blocks:
            raise UsageError(
                "encoder_reuse keeps an encoder's skips, but this network has no decoder that reads any; use plan "
                "residual with first=0"
            )
        return (network.graph[blocks[0]][0], *(network.graph[block][1] for block in blocks))

    def refreshes(self, steps: int | None) -> tuple[int, ...] | None:
        """The key steps."""
        if self.schedule != "published":
            return super().refreshes(steps)
        if steps is None:
            raise UsageError(
                "the published key steps are those of a run of known length; apply the plan to the pipeline rather "
                "than to the network, or give steps or every"
            )
        return tuple(sorted({min(round(step * steps / _OF), steps - 1) for step in PUBLISHED_STEPS}))

    def bind(self, network: Network, steps: int | None) -> Policy:
        """One decoder after the other, or several at once."""
        return _Parallel(self, network, steps) if self.parallel else super().bind(network, steps)


class _Parallel:
    """Encoder at key steps, then the decoders of all steps until the next one at once."""

    def __init__(self, plan: EncoderReuse, network: Network, steps: int | None) -> None:
        if steps is None:
            raise UsageError(
                "parallel decoders need the times of the steps to come; apply the plan to the pipeline or to a Denoiser"
            )
        keys = plan.refreshes(steps)
        assert keys is not None
        self.plan, self.names = plan, plan.names(network)
        self.until = dict(zip(keys, (*keys[1:], steps), strict=True))
        self.outputs: dict[int, torch.Tensor] = {}
        self.x: torch.Tensor | None = None

    def __call__(self, ask: Ask, moment: Moment) -> Output:
        if moment.step in self.until:
            self._run(ask, moment)
        check_sizes(self.x, moment, self.plan.kind)
        if moment.step not in self.outputs:
            raise UsageError(
                f"the decoders of step {moment.step} have not run: parallel decoders need every step from a key step "
                "on; use parallel=False with a guidance that is away at times"
            )
        return ask(given={"output": self.outputs.pop(moment.step)})

    def _run(self, ask: Ask, moment: Moment) -> None:
        count = self.until[moment.step] - moment.step
        if moment.ahead is None:
            raise UsageError(
                "parallel decoders need to know the times of the steps to come: a pipeline's or a Denoiser's, from a "
                "solver with one evaluation a step and guidance that stacks its halves; or use parallel=False"
            )
        kept = dict(zip(self.names, ask.probe(*self.names), strict=True))
        tiled = {name: value.repeat(count, *(1,) * (value.ndim - 1)) for name, value in kept.items()}
        stacked = ask.stacked(moment.ahead(count), count, given=tiled).value
        self.x = moment.x
        self.outputs = {moment.step + k: part for k, part in enumerate(stacked.chunk(count))}
