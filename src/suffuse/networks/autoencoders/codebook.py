"""A codebook: vectors to which latents are rounded, learned by gradient or as averages, revived when nobody uses them.

Source: vandenoord2017vqvae, Section 3 and Appendix A.1 (averages).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.part import Part
from suffuse.base.randomness import Draws, keys, uniform

__all__ = ["Codebook", "CodebookSettings", "Quantised"]

_AT_ONCE = 2**24  # distances computed at a time: 64 MB


class CodebookSettings(Part):
    """A codebook as plain data.

    A code's share of the latents is averaged over steps whichever way its vector learns. The source averages counts;
    shares are counts over the number of latents, which a run does not change.

    Attributes:
        size: Vectors, K.
        learns: By `gradient`, or as an average (`ema`) of the latents rounded to it.
        decay: Of the averages over steps.
        dead: A code whose averaged share is below `dead` / K is given one of the step's latents, and a share of 1 / K
            with it; 0 for never. Averages begin at 0, so the first step fills the codebook from its latents. At a decay
            of 0.99 a code that nobody uses any more is below 0.03 after 350 steps.
    """

    size: int = Field(default=512, ge=2)
    learns: Literal["gradient", "ema"] = "gradient"
    decay: float = Field(default=0.99, gt=0, lt=1)
    dead: float = Field(default=0.03, ge=0, lt=1)


@dataclass(frozen=True)
class Quantised:
    """Latents rounded to a codebook.

    Attributes:
        value: What is decoded, (B, c, h, w): the vectors in value, the latents in gradient (straight through).
        vectors: The vectors themselves, (B, c, h, w), through which gradients reach the codebook.
        codes: Their numbers, (B, h, w) int64.
    """

    value: Tensor
    vectors: Tensor
    codes: Tensor


class Codebook(nn.Module):
    """K vectors of width c.

    Latents that are trained on are counted by `count`, in as many parts as a step has. `pending` then holds sums over
    latents, which processes may average; `update` turns them into averages, moves vectors and revives dead codes. So
    neither the parts of a batch nor the number of processes changes what is learned, but for the order of sums.

    Args:
        settings: Size and learning.
        width: c.
    """

    weight: Tensor
    share: Tensor
    mass: Tensor

    def __init__(self, settings: CodebookSettings, width: int) -> None:
        super().__init__()
        self.settings, size = settings, settings.size
        vectors = torch.empty(size, width).uniform_(-1 / size, 1 / size)
        if settings.learns == "ema":
            self.register_buffer("weight", vectors)
            self.register_buffer("mass", torch.zeros(size, width))  # averaged sum of the latents of each code
        else:
            self.weight = nn.Parameter(vectors)
        self.register_buffer("share", torch.zeros(size))
        self.pending: Tensor | None = None

    @property
    def learned(self) -> bool:
        """Whether vectors learn by gradient."""
        return self.settings.learns == "gradient"

    def forward(self, z: Tensor) -> Quantised:
        """Round latents (B, c, h, w) to the nearest vectors."""
        rows = z.float().movedim(1, -1)
        codes = _nearest(rows.detach().flatten(0, -2), self.weight.detach().float()).view(rows.shape[:-1])
        vectors = nn.functional.embedding(codes, self.weight).movedim(-1, 1).contiguous()
        return Quantised(z + (vectors - z).detach(), vectors, codes)

    @torch.no_grad()
    def count(self, z: Tensor, codes: Tensor, draws: Draws) -> None:
        """Add latents of a step to what `update` will use.

        Which latent would revive which code is drawn from the whole step's: the process and the part that have it give
        it, the others nothing.

        Args:
            z: Latents, (B, c, h, w).
            codes: What they were rounded to, (B, h, w).
            draws: Randomness of these samples, with their places in the step.
        """
        size, width = self.weight.shape
        rows = z.float().movedim(1, -1).reshape(len(z), -1, width)
        places = codes.flatten()
        number = torch.arange(size, device=z.device)
        drawn = uniform(keys(draws.seed, "revived codes", draws.step, number), 2)
        sample = (drawn[:, 0] * draws.total).long()
        mine = sample[:, None] == draws.index[None]
        chosen = rows[mine.long().argmax(1), (drawn[:, 1] * rows.shape[1]).long()]
        given = mine.any(1).float()[:, None]
        found = rows.new_zeros(size, 2 + 2 * width)
        found[:, 0].index_add_(0, places, torch.ones_like(places, dtype=found.dtype))
        found[:, 1 : 1 + width].index_add_(0, places, rows.flatten(0, 1))
        found[:, 1 + width : 2 + width] = given
        found[:, 2 + width :] = given * chosen
        self.pending = found if self.pending is None else self.pending + found

    @torch.no_grad()
    def update(self) -> dict[str, Tensor]:
        """Take what was counted into the averages, move vectors that learn so, and revive dead codes.

        Returns:
            `codebook_usage`, codes used in the step as a share of those that its latents could use, and
            `codebook_perplexity`, the number of codes that would be as hard to guess: scalars. Nothing when nothing was
            counted.
        """
        found, self.pending = self.pending, None
        if found is None:
            return {}
        size, width = self.weight.shape
        counts, sums, given, chosen = torch.split(found, [1, width, 1, width], dim=1)
        share = (counts / counts.sum()).squeeze(1)
        decay = self.settings.decay
        self.share.lerp_(share, 1 - decay)
        if not self.learned:
            self.mass.lerp_(sums / counts.sum(), 1 - decay)
            # Unused, both fall alike and the vector stays; before they underflow it is kept as it is.
            known = (self.share > 1e-30)[:, None]
            self.weight.copy_(torch.where(known, self.mass / self.share[:, None].clamp_min(1e-30), self.weight))
        dead = (self.share < self.settings.dead / size) & (given.squeeze(1) > 0)
        vectors = torch.where(dead[:, None], chosen / given.clamp_min(1e-12), self.weight)
        self.weight.copy_(vectors)
        self.share.copy_(torch.where(dead, 1 / size, self.share))
        if not self.learned:
            self.mass.copy_(torch.where(dead[:, None], vectors / size, self.mass))
        entropy = -torch.special.xlogy(share, share).sum()
        # Where processes have averaged their sums, each code was given once by one of so many.
        latents = counts.sum() / given.mean().clamp_min(1e-12)
        usage = (share > 0).float().sum() / latents.clamp(1, size)
        return {"codebook_usage": usage, "codebook_perplexity": entropy.exp()}


def _nearest(rows: Tensor, vectors: Tensor) -> Tensor:
    """Numbers of the nearest vectors (K, c) to rows (N, c), (N,) int64; some rows at a time."""
    half = 0.5 * vectors.square().sum(1)  # of |row - vector|^2 what depends on the vector, halved
    parts = torch.split(rows, max(1, _AT_ONCE // len(vectors)))
    # Rounded products would find other vectors; shapes alone, on the meta device, know no autocast.
    exact = contextlib.nullcontext() if rows.is_meta else torch.autocast(rows.device.type, enabled=False)
    with exact:
        return torch.cat([torch.addmm(half, part, vectors.T, alpha=-1).argmin(1) for part in parts])
