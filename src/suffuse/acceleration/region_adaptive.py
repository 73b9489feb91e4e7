"""Region-adaptive sampling: at most steps only the tokens that need it run, the others go on with what they had.

Source: liu2025ras.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from suffuse.acceleration.plan import Ask, Asked, Moment, PlanPart, Policy
from suffuse.acceleration.reuse import check_sizes
from suffuse.acceleration.timeline import Timeline
from suffuse.base.errors import UsageError
from suffuse.networks.contract import Network, Output, TokenMemory, Tokens

__all__ = ["RegionAdaptive"]


class RegionAdaptive(PlanPart):
    """A share of a transformer's tokens runs, and attends to all by what the others left when they ran.

    Tokens are scored by how differently their channels moved in the last step: by the step itself, which is what the
    solver made of the guided output, so that all streams of a guidance choose the same. Of the scores' order the middle
    is kept (see `high`). A token that is not chosen moves on by its last output.

    Source: liu2025ras, Sections 3.2 to 3.4.

    Attributes:
        ratio: Share of the tokens that run.
        start: So many first steps run all of them.
        reset_every: After so many steps all of them run again; None never. 8 gives the source's steps 12 and 20 of 28.
        high: Share of the dropped tokens that are taken from the highest scores, the others from the lowest. 1 keeps
            the calmest, as the source's default does; its script for SD3 has 0.3.
        score: `std` over channels, their `norm`, or `random`, which is a control and no method.
        starvation: How much a step without running adds to a token's need, which lies between 0 and 1.
        published: Count and scale drops as the source's code does: scores times exp(starvation * drops), drops never
            forgotten. It protects those at the low end, and keeps those at the high end away until a reset.
        recover: Attend to kept keys and values too; without it tokens that run see only each other, a control.
    """

    kind: Literal["region_adaptive"] = "region_adaptive"
    owns: ClassVar[frozenset[Literal["blocks", "tokens", "attention"]]] = frozenset({"blocks", "tokens", "attention"})
    ratio: float = Field(default=0.5, gt=0, le=1)
    start: int = Field(default=4, ge=1)
    reset_every: int | None = Field(default=8, ge=1)
    high: float = Field(default=1.0, ge=0, le=1)
    score: Literal["std", "norm", "random"] = "std"
    starvation: float = Field(default=0.1, ge=0)
    published: bool = False
    recover: bool = True

    def dense(self, step: int) -> bool:
        """Whether all tokens run at a step."""
        if step < self.start or self.ratio == 1:
            return True
        return self.reset_every is not None and (step - self.start) % self.reset_every == 0 and step > self.start

    def bind(self, network: Network, steps: int | None) -> Policy:
        """Choose tokens."""
        if network.token_patch is None:
            raise UsageError(
                "region_adaptive runs some tokens of a transformer, but this network has no tokens that could run "
                "alone; use plan deepcache or encoder_reuse on a U-Net"
            )
        return _RegionAdaptive(self, network.token_patch)

    def preview(self, network: Network, steps: int) -> Timeline:
        """All tokens at dense steps, a share of them at the others."""
        self.bind(network, steps)
        names = tuple(network.graph)
        asked = (Asked(names, 1.0 if self.dense(step) else self.ratio) for step in range(steps))
        return Timeline(names, tuple((one,) for one in asked))


class _AmongThemselves(TokenMemory):
    """Remembers outputs, but no keys and values."""

    def recovered(self, name: str, rows: Tensor, index: Tensor | None) -> Tensor:
        return super().recovered(name, rows, index) if name == "output" else rows


class _RegionAdaptive:
    """Region-adaptive sampling at work."""

    def __init__(self, plan: RegionAdaptive, patch: int) -> None:
        self.plan, self.patch = plan, patch
        self.memory = TokenMemory() if plan.recover else _AmongThemselves()
        self.step = -1
        self.x: Tensor | None = None
        self.sample: Tensor | None = None
        self.idle: Tensor | None = None

    def __call__(self, ask: Ask, moment: Moment) -> Output:
        check_sizes(self.x, moment, self.plan.kind)
        before, follows = self.sample, moment.step == self.step + 1
        self.x, self.step = moment.x, moment.step
        self.sample = (moment.x if moment.sample is None else moment.sample()).detach()
        if before is None or not follows or not self.memory.kept or self.plan.dense(moment.step):
            return self._all(ask, moment)
        index = self._chosen(self.sample - before, moment.step)
        return ask(tokens=Tokens(index, self.memory))

    def _all(self, ask: Ask, moment: Moment) -> Output:
        if not self.plan.published:
            self.idle = None
        if self.plan.dense(moment.step + 1):  # nobody will ask for what would be kept
            self.memory.kept.clear()
            return ask()
        return ask(tokens=Tokens(None, self.memory))

    def _chosen(self, moved: Tensor, step: int) -> Tensor:
        """Tokens that run, (B, K), rising."""
        scores = self._scores(moved, step)
        # Rounded up, but not for the last digit of the product.
        count = math.ceil(self.plan.ratio * scores.shape[1] - 1e-9)
        idle = torch.zeros_like(scores) if self.idle is None else self.idle
        kept = self._published(scores, idle, count) if self.plan.published else self._needed(scores, idle, count)
        index = kept.sort(dim=1).values
        idle = idle + 1
        # Ours counts steps since a token ran; the published form counts all drops.
        self.idle = idle.scatter(1, index, idle.gather(1, index) - 1 if self.plan.published else torch.zeros_like(idle))
        return index

    def _scores(self, moved: Tensor, step: int) -> Tensor:
        """Of each token, (B, N): its patch's mean over pixels."""
        if self.plan.score == "std":
            pixels = moved.std(dim=1, keepdim=True) if moved.shape[1] > 1 else moved.abs()
        else:
            pixels = moved.norm(dim=1, keepdim=True)
        scores = torch.nn.functional.avg_pool2d(pixels.float(), self.patch).flatten(1)
        if self.plan.score != "random":
            return scores
        order = torch.randperm(scores.shape[1], generator=torch.Generator().manual_seed(step))
        return order.to(scores).expand_as(scores)

    def _needed(self, scores: Tensor, idle: Tensor, count: int) -> Tensor:
        """Those nearest to the middle of what is kept, in the order of scores, and those that have waited longest."""
        total = scores.shape[1]
        ranks = scores.argsort(dim=1, stable=True).argsort(dim=1).float()
        middle = int((total - count) * (1 - self.plan.high)) + (count - 1) / 2
        need = 1 - (ranks - middle).abs() / max(middle, total - 1 - middle, 1.0)
        return (need + self.plan.starvation * idle).argsort(dim=1, descending=True, stable=True)[:, :count]

    def _published(self, scores: Tensor, idle: Tensor, count: int) -> Tensor:
        """The middle of the order of scaled scores."""
        order = (scores * (self.plan.starvation * idle).exp()).argsort(dim=1, stable=True)
        dropped = scores.shape[1] - count
        low = math.floor(dropped * (1 - self.plan.high))
        return order[:, low : low + count]
