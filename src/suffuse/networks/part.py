"""NetworkPart: the configuration of a network, and the seeded build that leaves the global generator alone."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Self, TypeVar

import torch

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.networks.contract import Network

__all__ = ["NetworkPart", "count_parameters", "seeded"]

N = TypeVar("N", bound=Network)


class NetworkPart(Part, abc.ABC):
    """Configuration of a network; `build` makes the module with its weights.

    Attributes:
        fixed_size: Whether a network takes samples of no other size than it was built for.
    """

    fixed_size: ClassVar[bool] = False
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

    def taking(self, giver: str, **offered: int) -> Self:
        """This network with fields filled in for what is offered to it beside the noisy sample.

        Args:
            giver: Where it comes from, for messages.
            **offered: `extra_channels`, `token_width`, `map_channels`, see `Embedding`; 0 for what does not come.

        Raises:
            UsageError: It is configured for something else, or takes nothing of the kind.
        """
        own, changes = dict(self), {}
        for name, size in offered.items():
            if own.get(name, 0) == size:
                continue
            what = _OFFERS[name].format(size)
            if name not in own:
                raise UsageError(
                    f"{giver} {what}, but network {self.kind!r} has no {name} to take them; choose another network"
                )
            if own[name]:
                raise UsageError(
                    f"network.{name} is {own[name]}, but {giver} {what}; leave {name} out, it is filled in"
                )
            changes[name] = size
        return self.replace(**changes) if changes else self


_OFFERS = {
    "extra_channels": "puts {} channels beside the sample",
    "token_width": "gives tokens of width {}",
    "map_channels": "gives a map of {} channels",
}


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
