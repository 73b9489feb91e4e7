"""The guidance contract: a guidance wraps `denoise` and returns another one."""

from __future__ import annotations

import abc
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.process import PathPart
from suffuse.sampling.solvers.base import Estimate, SolverPart

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
        shifts: Whether it moves samples after steps.
        reads: Names of the conditions that it reads itself, beside those of the model.
    """

    kind: str
    renoises: ClassVar[bool] = False
    shifts: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    def check(self, solver: SolverPart) -> None:
        """Refuse a solver that cannot follow it.

        Raises:
            UsageError: Its steps have no place for a noise of its own, or remember samples that it moves.
        """
        if self.renoises and not solver.renoises:
            raise UsageError(
                f"guidance {self.kind!r} continues with another noise than the estimate implies, which a step of "
                f"solver {solver.kind!r} has no place for; use solver ddim or ddpm"
            )
        if self.shifts and not solver.shiftable:
            raise UsageError(
                f"guidance {self.kind!r} moves samples between steps, which solver {solver.kind!r} would take for a "
                "bend of their way; use one whose steps remember nothing: ddim, ddpm, heun or dpm"
            )

    @abc.abstractmethod
    def bind(self, denoise: Denoise, path: PathPart) -> Denoise:
        """Wrap a model's `denoise` for one trajectory."""

    @property
    @abc.abstractmethod
    def most_evaluations(self) -> int:
        """Network evaluations per call at most."""

    @property
    def needs_absent(self) -> bool:
        """Whether it asks for estimates without conditions, which a model must have learnt."""
        return False


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
