"""NetworkPart: the configuration of a network, and the seeded build that leaves the global generator alone."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from suffuse.base.part import Part
from suffuse.networks.contract import Network

__all__ = ["NetworkPart", "count_parameters", "seeded"]

N = TypeVar("N", bound=Network)


class NetworkPart(Part, abc.ABC):
    """Configuration of a network; `build` makes the module with its weights."""

    kind: str

    @abc.abstractmethod
    def build(self, shape: tuple[int, ...], *, out_channels: int | None = None, seed: int = 0) -> Network:
        """Make the network for data of one shape.

        Args:
            shape: Shape of one sample, (C, H, W) for images and (D,) for vectors.
            out_channels: Channels of the raw output; C when None (2C for learned variances).
            seed: Seed of the initial weights: equal seeds give equal weights.

        Raises:
            UsageError: The configuration does not fit the shape.
        """


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make torch's initialisers draw from `seed`; the global CPU generator is put back on exit, whatever happens."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def count_parameters(part: NetworkPart, shape: tuple[int, ...]) -> int:
    """Number of weights that `part` has for data of `shape`, without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in part.build(shape).parameters())
