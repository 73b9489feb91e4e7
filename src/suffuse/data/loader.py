"""Loader: which samples a step sees is a function of the step, so nothing needs saving and no process can drift."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from suffuse.base.batch import Batch
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws, permutation
from suffuse.data.dataset import Dataset
from suffuse.process import CouplingPart, Independent

__all__ = ["Loader"]

_AHEAD = 2  # batches made before they are asked for


class Loader:
    """Batches of a data set by step.

    Global batch `step` is what stands at places step * batch ... (step + 1) * batch - 1 of the endless row of shuffled
    epochs; a process gets its contiguous share of it. An epoch's end may fall inside a batch, and a data set may be
    smaller than one.

    Args:
        dataset: Where samples come from.
        batch: Samples of a step over all processes.
        seed: Of the order, the mirroring and, through `draws`, of the step's noise.
        rank: This process.
        world: Number of processes.
        flip: Mirror half of the pictures left to right, chosen anew each time one is seen.
        coupling: Which noise goes with which sample; computed here, so that it hides behind the device's work.
        labelled: Whether the coupling minds the classes: not when the model is told none.

    Raises:
        UsageError: The batch cannot be shared evenly, or points shall be mirrored.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        flip: bool = False,
        coupling: CouplingPart | None = None,
        labelled: bool = True,
    ) -> None:
        if batch < 1:
            raise UsageError(f"batch is {batch}; it must be at least 1")
        if batch % world:
            raise UsageError(
                f"batch {batch} cannot be shared evenly by {world} processes; use a multiple of {world}, "
                f"such as {(batch // world + 1) * world}"
            )
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} is not one of {world} processes; it must be from 0 to {world - 1}")
        if flip and not dataset.is_images and dataset.mirrored is None:
            raise UsageError(
                f"data {dataset.name!r} are no pictures and cannot be mirrored; set training.flip to false"
            )
        self.dataset, self.total, self.seed, self.flip = dataset, batch, seed, flip
        self.coupling = coupling or Independent()
        share = batch // world
        self.coupling.check(share)
        self.labelled = labelled
        self._places = torch.arange(rank * share, (rank + 1) * share)
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> Tensor:
        return permutation(self.seed, "data order", epoch, len(self.dataset))

    def index(self, step: int) -> Tensor:
        """Numbers of the samples of this process at a step, (batch / world,) int64."""
        places = step * self.total + self._places
        epochs, within = places // len(self.dataset), places % len(self.dataset)
        if epochs[0] == epochs[-1]:
            return self._order(int(epochs[0]))[within]
        seen = range(int(epochs[0]), int(epochs[-1]) + 1)
        return torch.cat([self._order(epoch)[within[epochs == epoch]] for epoch in seen])

    def at(self, step: int) -> Batch:
        """This process's share of global batch `step`, step >= 0."""
        mirrored = self.draws(step).uniform("data flip") < 0.5 if self.flip else None
        batch = self.dataset.batch(self.index(step), mirrored)
        return batch if self.coupling.trivial else self._coupled(batch, self.draws(step))

    def _coupled(self, batch: Batch, draws: Draws) -> Batch:
        """The batch with the noise that the objective would have drawn, in another order."""
        assert batch.x0 is not None
        eps = draws.normal("eps", tuple(batch.x0.shape[1:]))
        labels = batch.cond.values.get("label") if self.labelled else None
        order = self.coupling.order(batch.x0, eps, labels)
        return replace(batch, eps=eps[order])

    def draws(self, step: int) -> Draws:
        """The randomness of the same samples, keyed by their place in the global batch: equal for any `world`."""
        return Draws(self.seed, self._places, step=step, total=self.total)

    @contextmanager
    def stream(self, start: int = 0) -> Iterator[Iterator[Batch]]:
        """Batches from step `start` on without end, made ahead by one thread.

        An error while a batch is made is raised when that batch is asked for. Leaving the block, in whatever way, ends
        the thread.

        Yields:
            The batches.
        """
        pool = ThreadPoolExecutor(1, thread_name_prefix="suffuse-loader")
        try:
            yield self._ahead(pool, start)
        finally:
            pool.shutdown(cancel_futures=True)

    def _ahead(self, pool: ThreadPoolExecutor, step: int) -> Iterator[Batch]:
        waiting: deque[Future[Batch]] = deque()
        while True:
            while len(waiting) <= _AHEAD:
                waiting.append(pool.submit(self.at, step))
                step += 1
            yield waiting.popleft().result()
