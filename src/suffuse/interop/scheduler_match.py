"""A solver of ours and a scheduler of diffusers side by side: both ask the same analytic network, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.interop.scheduler_pairs import Pair
from suffuse.models.denoiser import Denoiser
from suffuse.networks.contract import Network, Output
from suffuse.process import EDM, Flow
from suffuse.sampling import Estimate, ListedTimes

__all__ = ["differences", "largest_difference", "scheduler_of"]

Scheduler = Any  # diffusers' schedulers share no typed base

_BATCH, _WIDTH = 4, 3


class _Analytic(Network):
    """A smooth function of the input and of what is told, so that a wrong time or scale shows."""

    cond_width = 0

    def __init__(self) -> None:
        super().__init__()
        self.widths, self.graph = {}, {"output": ()}
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        x: Tensor,
        told: Tensor,
        cond: Embedding | None = None,
        *,
        seeds: Tensor | None = None,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
    ) -> Output:
        return Output((0.7 * x + (3 * told[:, None] / 1000).sin()).tanh())


@dataclass(frozen=True)
class _Drawn(Draws):
    """Noise in the order in which a scheduler takes it from its generator."""

    generator: torch.Generator = field(default_factory=torch.Generator)

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        return torch.randn((len(self), *shape), generator=self.generator, dtype=torch.float64)


def scheduler_of(pair: Pair) -> Scheduler:
    """The scheduler of a pair, its times laid.

    Raises:
        UsageError: diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError:
        raise UsageError(
            f"a comparison with {pair.theirs} needs diffusers, which is not installed; pip install 'suffuse[diffusers]'"
        ) from None
    made = getattr(diffusers, pair.theirs).from_config(pair.options)
    made.set_timesteps(**(pair.timing or {"num_inference_steps": pair.steps}))
    return made


def _listed(pair: Pair, scheduler: Scheduler) -> tuple[float, ...]:
    """The scheduler's own times, in our unit; its repeated ones once."""
    times = scheduler.timesteps[:: pair.order].double()
    if pair.first is not None:
        times = torch.unique_consecutive(times)
    if pair.process.path == EDM():
        times = scheduler.sigmas[:-1].double()
    elif pair.process.path == Flow():
        times = times / 1000
    return tuple(times.tolist())


def differences(pair: Pair, seed: int = 0) -> Iterator[float]:
    """After each step the largest difference of the two samples, relative to the largest element.

    Args:
        pair: Solver, scheduler and their settings.
        seed: Of starts and noise.

    Raises:
        UsageError: diffusers is not installed.
    """
    scheduler = scheduler_of(pair)
    times = ListedTimes(listed=_listed(pair, scheduler), end=pair.end).times(pair.process.path)
    levels = [pair.process.path.level(t) for t in times]
    model = Denoiser(_Analytic(), path=pair.process.path, prediction=pair.process.prediction, time=pair.process.time)
    index = torch.arange(_BATCH)
    x = Draws(seed, index).normal("start", (_WIDTH,)).double() * levels[0].sigma
    noise = _Drawn(seed, index, generator=torch.Generator().manual_seed(7 + seed))
    drawn = {"generator": torch.Generator().manual_seed(7 + seed)} if pair.drawing else {}

    def denoise(x: Tensor, t: float, substep: int = 0, target: float | None = None) -> Estimate:
        return Estimate(model.denoise(x, t).detach())

    state = pair.ours.init(x, times, pair.process.path)
    sample, queue = x / levels[0].alpha if pair.scaled else x, list(scheduler.timesteps)
    for i in range(len(times) - 1):
        x, state = pair.ours.step(denoise, x, state, i, noise.at(i))
        count = pair.first if pair.first is not None and i == 0 else pair.order
        for _ in range(min(count, len(queue))):
            t = queue.pop(0)
            scale = getattr(scheduler, "scale_model_input", lambda sample, t: sample)  # flow matching has none
            raw = model.network(scale(sample, t), torch.full((_BATCH,), float(t))).value.detach()
            sample = scheduler.step(raw, t, sample, **pair.stepping, **drawn).prev_sample
        expected = sample * levels[i + 1].alpha if pair.scaled else sample
        yield float((x - expected).abs().max() / expected.abs().max())
    assert not queue, "all of the scheduler's evaluations are done"


def largest_difference(pair: Pair, seed: int = 0) -> float:
    """The largest difference of any step, see `differences`.

    Raises:
        UsageError: diffusers is not installed.
    """
    return max(differences(pair, seed))
