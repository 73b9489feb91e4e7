"""Buckets: samples of several shapes, of which every batch has one, so that no picture is cut to a square."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from suffuse.base.batch import Batch
from suffuse.base.errors import UsageError
from suffuse.base.randomness import permutation
from suffuse.data.dataset import Dataset
from suffuse.data.loader import Loader
from suffuse.process import CouplingPart

__all__ = ["BucketLoader", "Buckets"]

_CYCLE = 1000  # batches after which each bucket has had its share


@dataclass(frozen=True, eq=False)
class Buckets:
    """Data sets that differ in the shape of their samples, and in nothing else.

    Sample i of the whole is sample i of the first, then of the second, and so on.

    Attributes:
        parts: At least one, none empty.
    """

    parts: tuple[Dataset, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise UsageError("buckets need at least one data set")

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def starts(self) -> tuple[int, ...]:
        """Number of the first sample of each part."""
        return tuple(sum(len(part) for part in self.parts[:place]) for place in range(len(self.parts)))

    @property
    def main(self) -> Dataset:
        """The part with most samples."""
        return max(self.parts, key=len)

    def each(self, change: Callable[[Dataset], Dataset]) -> Buckets:
        """The same with every part changed."""
        return Buckets(tuple(change(part) for part in self.parts))

    def lines(self) -> tuple[str, ...]:
        """How many samples have which shape, a sentence."""
        found = ", ".join(f"{len(part)} of {part.shape[-1]}x{part.shape[-2]}" for part in self.parts)
        return (f"{len(self)} samples in buckets: {found}",)


class BucketLoader(Loader):
    """Batches of buckets by step: all samples of a batch have one shape.

    In every thousand steps each bucket has its share of them in an order of its own, at least one. Within a bucket
    all is as it is for `Loader`.

    Args:
        buckets: Where samples come from.
        batch, seed, rank, world, flip, coupling, labelled: As for `Loader`.

    Raises:
        UsageError: As for `Loader`.
    """

    def __init__(
        self,
        buckets: Buckets,
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        flip: bool = False,
        coupling: CouplingPart | None = None,
        labelled: bool = True,
    ) -> None:
        # They say which samples; what is drawn for these, and coupled, is this loader's.
        loaders = [Loader(part, batch=batch, seed=seed, rank=rank, world=world) for part in buckets.parts]
        super().__init__(
            buckets.main,
            batch=batch,
            seed=seed,
            rank=rank,
            world=world,
            flip=flip,
            coupling=coupling,
            labelled=labelled,
        )
        self.buckets, self.loaders = buckets, loaders
        self._shares = _shares([len(part) for part in buckets.parts], _CYCLE)
        self._cycle = functools.lru_cache(maxsize=2)(self._shuffled_turns)

    def _shuffled_turns(self, cycle: int) -> NDArray[np.int64]:
        tickets = np.repeat(np.arange(len(self._shares)), self._shares)
        turns: NDArray[np.int64] = tickets[permutation(self.seed, "bucket order", cycle, len(tickets)).numpy()]
        return turns

    def turn(self, step: int) -> tuple[int, int]:
        """Which bucket has its turn at a step, and which of its own turns that is, from 0."""
        length = int(self._shares.sum())
        cycle, within = divmod(step, length)
        turns = self._cycle(cycle)
        bucket = int(turns[within])
        before = int((turns[:within] == bucket).sum())
        return bucket, cycle * int(self._shares[bucket]) + before

    def index(self, step: int) -> Tensor:
        """Numbers of the samples of this process at a step, (batch / world,) int64."""
        bucket, turn = self.turn(step)
        return self.loaders[bucket].index(turn) + self.buckets.starts[bucket]

    def at(self, step: int) -> Batch:
        """This process's share of global batch `step`, step >= 0."""
        bucket, turn = self.turn(step)
        # Which samples is a matter of the bucket's turn, what is drawn for them of the step, as everywhere.
        draws, index = self.draws(step), self.loaders[bucket].index(turn)
        mirrored = draws.uniform("data flip") < 0.5 if self.flip else None
        batch = self.buckets.parts[bucket].batch(index, mirrored)
        batch = batch if self.coupling.trivial else self._coupled(batch, draws)
        return replace(batch, index=index + self.buckets.starts[bucket])


def _shares(sizes: list[int], turns: int) -> NDArray[np.int64]:
    """Turns of each bucket, at least one, in proportion to their samples; about `turns` altogether."""
    exact = np.array(sizes) * turns / sum(sizes)
    shares: NDArray[np.int64] = np.maximum(1, np.rint(exact)).astype(np.int64)
    return shares
