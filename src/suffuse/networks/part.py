"""NetworkPart: the configuration of a network, and the seeded build that leaves the global generator alone."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self, TypeVar

import torch

from suffuse.base.errors import UsageError
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

    def taking(self, extra: int, giver: str) -> Self:
        """This network with `extra` input channels beyond the data's.

        Args:
            extra: How many there will be.
            giver: Where they come from, for messages.

        Raises:
            UsageError: It is configured for another number, or for none ever.
        """
        own = dict(self).get("extra_channels")
        if own == extra or (own is None and not extra):
            return self
        if own is None:
            raise UsageError(
                f"{giver} puts {extra} channels beside the sample, but network {self.kind!r} has no extra_channels to "
                f"take them; choose another network"
            )
        if own:
            raise UsageError(
                f"network.extra_channels is {own}, but {giver} puts {extra} channels beside the sample; leave "
                f"extra_channels out, it is filled in"
            )
        return self.replace(extra_channels=extra)


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
