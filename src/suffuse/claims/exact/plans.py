"""Plans on networks of published shapes: multiply-accumulates of whole runs, counted without weights."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Literal

import torch
from pydantic import Field

from suffuse.acceleration import MacCounter, NoPlan, Plan, PlanPart, applied
from suffuse.claims.exact.base import ExactPart
from suffuse.networks.external.published import published

__all__ = ["PlanMacs"]


class _Scheduler:
    """What a plan must know of a pipeline's scheduler: its times."""

    def __init__(self) -> None:
        self.timesteps = torch.zeros(0)

    def set_timesteps(self, steps: int) -> None:
        """Evenly spaced."""
        self.timesteps = torch.linspace(999, 0, steps)


class PlanMacs(ExactPart):
    """Multiply-accumulates of a run under a plan, of a network of published shape at its usual resolution.

    Values: full, of one evaluation of one sample, in 10**9; ratio, of the run without the plan over that with it;
    weights, in 10**6.

    Attributes:
        network: Its shape.
        plan: The plan.
        steps: Evaluations of a run. Guidance doubles both sides, and changes nothing.
    """

    kind: Literal["plan_macs"] = "plan_macs"
    network: Literal["sd15", "sdxl", "ldm4", "sd3"] = "sd15"
    plan: Plan = NoPlan()
    steps: int = Field(default=50, ge=1)

    def of(self, seed: int) -> dict[str, float]:
        """Exact: the seed changes nothing.

        Raises:
            UsageError: diffusers is not installed.
        """
        return dict(_counted(self.network, self.plan, self.steps))


@functools.lru_cache(maxsize=64)
def _counted(network: str, plan: PlanPart, steps: int) -> dict[str, float]:
    """Once in a process, whatever the seed."""
    shape = published(network)
    model = shape.build()
    pipe = SimpleNamespace(unet=model, scheduler=_Scheduler())
    arguments = shape.call(model, 1)
    counter = MacCounter()
    spent = []
    with torch.no_grad():
        for each, count in ((NoPlan(), 1), (plan, steps)):
            with applied(pipe, each, counter=counter) as run:
                pipe.scheduler.set_timesteps(count)
                for _ in range(count):
                    model(**arguments)
            spent.append(run.macs)
    full, planned = spent
    weights = sum(weight.numel() for weight in model.parameters())
    return {"full": full / 1e9, "ratio": full * steps / planned, "weights": weights / 1e6}
