"""Couplings: which noise goes with which sample of a batch."""

from __future__ import annotations

import abc
from typing import Literal

import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import Part

__all__ = ["CouplingPart", "Independent", "OptimalTransport"]

_ITERATIONS = 10_000_000  # of the exact solver: batches of thousands need more than its default


class CouplingPart(Part, abc.ABC):
    """Pairs the noise of a batch with its data."""

    kind: str

    @property
    def trivial(self) -> bool:
        """Whether noise stays where it was drawn, so that nothing needs computing."""
        return False

    @abc.abstractmethod
    def order(self, x0: Tensor, eps: Tensor, labels: Tensor | None = None) -> Tensor:
        """Which noise each sample gets: a permutation, (B,) int64, so that eps[order] goes with x0.

        Only the noise moves: labels, captions and masks stay with their sample.

        Args:
            x0: Data, (B, ...).
            eps: Unit noise, (B, ...).
            labels: Classes of the samples, (B,); None without.
        """

    def check(self, batch: int) -> None:
        """Raise a `UsageError` when it cannot be used on batches of that size."""

    def remark(self, batch: int, classes: int) -> str | None:
        """What a user should know of it on batches of that size, with labels of so many classes; mostly nothing."""
        return None


class Independent(CouplingPart):
    """Every sample keeps the noise that was drawn for it."""

    kind: Literal["independent"] = "independent"

    @property
    def trivial(self) -> bool:
        """Always."""
        return True

    def order(self, x0: Tensor, eps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The identity."""
        return torch.arange(len(x0))


class OptimalTransport(CouplingPart):
    """Exact optimal transport between the batch's data and noise for the squared distance: a permutation.

    Sources: pooladian2023multisample; tong2024improving; dao2025slct, Section 4.3.

    Attributes:
        within: What noise may be exchanged among: all samples, or those of a class. Across classes the law of the noise
            given a class is no longer normal, so that a conditional model samples from another law than it was trained
            on; without labels both are the same.
    """

    kind: Literal["optimal_transport"] = "optimal_transport"
    within: Literal["class", "batch"] = "class"

    def order(self, x0: Tensor, eps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The cheapest permutation, class by class where asked for."""
        data, noise = x0.detach().flatten(1).cpu(), eps.detach().flatten(1).cpu()
        if labels is None or self.within == "batch":
            return _cheapest(data, noise)
        order = torch.arange(len(data))
        for label in set(labels.tolist()):
            rows = (labels == label).nonzero()[:, 0].cpu()
            order[rows] = rows[_cheapest(data[rows], noise[rows])]
        return order

    def check(self, batch: int) -> None:
        """A single sample has nothing to exchange."""
        if batch < 2:
            raise UsageError(
                f"coupling 'optimal_transport' exchanges noise within a batch, but each process draws {batch} sample "
                "at a time; raise training.batch, or use coupling=independent"
            )

    def remark(self, batch: int, classes: int) -> str | None:
        """Whether classes are too many for the batch."""
        if self.within == "batch" or batch >= 2 * classes:
            return None
        return (
            f"coupling: a process's batch of {batch} has hardly two samples of each of {classes} classes to exchange "
            f"noise; raise it to {2 * classes} at least, or set coupling.within=batch"
        )


def _cheapest(data: Tensor, noise: Tensor) -> Tensor:
    """Permutation of the noise that makes the sum of squared distances least; (B, D) each."""
    if len(data) == 1:
        return torch.zeros(1, dtype=torch.int64)
    from ot import emd  # a second to import, for those who ask for it

    cost = torch.cdist(data.double(), noise.double()).square()
    even = torch.full((len(data),), 1 / len(data), dtype=torch.float64)
    scaled = cost / cost.max().clamp_min(1e-300)
    plan = torch.as_tensor(emd(even.numpy(), even.numpy(), scaled.numpy(), numItermax=_ITERATIONS))
    return plan.argmax(1)
