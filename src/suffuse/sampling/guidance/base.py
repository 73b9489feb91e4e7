"""The guidance contract: a guidance wraps `denoise` and returns another one."""

from __future__ import annotations

import abc
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.part import Part
from suffuse.process import PathPart
from suffuse.sampling.solvers.base import Estimate

__all__ = ["Denoise", "GuidancePart", "NoGuidance"]


class Denoise(Protocol):
    """What models offer and guidances wrap."""

    def __call__(self, x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
        """Estimate of x0 at time t."""
        ...


class GuidancePart(Part, abc.ABC):
    """A guidance; what it remembers along a trajectory lives in what `bind` returns.

    Attributes:
        renoises: Whether its estimates carry a noise of their own to continue with.
    """

    kind: str
    renoises: ClassVar[bool] = False

    @abc.abstractmethod
    def bind(self, denoise: Denoise, path: PathPart) -> Denoise:
        """Wrap a model's `denoise` for one trajectory."""

    @property
    @abc.abstractmethod
    def most_evaluations(self) -> int:
        """Network evaluations per call at most."""


class NoGuidance(GuidancePart):
    """The model as it is."""

    kind: Literal["none"] = "none"

    def bind(self, denoise: Denoise, path: PathPart) -> Denoise:
        """`denoise` itself."""
        return denoise

    @property
    def most_evaluations(self) -> int:
        """One."""
        return 1
