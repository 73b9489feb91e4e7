"""The solver's contract, and the transfers from one noise level to a cleaner one that all solvers share."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.part import Part
from suffuse.base.randomness import Draws
from suffuse.process import Level, PathPart, eps_of, transfer

__all__ = ["Estimate", "Estimator", "OnGrid", "SolverPart", "stochastic_transfer", "transfer"]


@dataclass(frozen=True)
class Estimate:
    """What a solver gets from the model.

    Attributes:
        x0: Estimate of the data, (B, ...).
        noise: Noise to continue with, (B, ...); None for the one that x and x0 imply. A guidance that renoises with
            another noise sets it.
        shift: Added to the samples after the step, (B, ...); None for nothing. A guidance that corrects samples rather
            than estimates sets it.
        evaluations: Evaluations of other networks than the model's that the estimate took, per sample.
        backward: Passes backward through networks that it took, per sample.
    """

    x0: Tensor
    noise: Tensor | None = None
    shift: Tensor | None = None
    evaluations: float = 0.0
    backward: float = 0.0

    def eps(self, x: Tensor, level: Level) -> Tensor:
        """Noise to continue with from x at a level, (B, ...)."""
        return eps_of(x, self.x0, level) if self.noise is None else self.noise


class Estimator(Protocol):
    """(x, t) -> estimate, with model, condition and guidance inside."""

    def __call__(self, x: Tensor, t: float, substep: int = 0, target: float | None = None) -> Estimate:
        """Evaluate at time t; `substep` counts the evaluations within a step, `target` is where a flow map shall go."""
        ...


@dataclass(frozen=True)
class OnGrid:
    """State of a solver without memory: path, and the coefficients of the whole grid, computed once."""

    path: PathPart
    levels: tuple[Level, ...]


class SolverPart(Part, abc.ABC):
    """A solver: `init` makes the state, `step` moves x from grid[i] to grid[i + 1]. It holds nothing itself.

    Attributes:
        per_step: Evaluations per step; the last step to clean data may take fewer.
        needs_mean: Whether estimates must be posterior means (a consistency model's endpoint will not do).
        renoises: Whether a step is data plus noise, so that a guidance may continue with another noise.
        shiftable: Whether a guidance may move the samples between steps: steps remember nothing of those before.
    """

    kind: str
    per_step: ClassVar[int] = 1
    needs_mean: ClassVar[bool] = True
    renoises: ClassVar[bool] = False
    shiftable: ClassVar[bool] = False
    memory: ClassVar[type[OnGrid]] = OnGrid

    @property
    @abc.abstractmethod
    def convergence(self) -> int:
        """Order of global convergence with its own start-up (weak order for stochastic solvers)."""

    @property
    def interior(self) -> int:
        """Order of global convergence once started, with exact values in the memory."""
        return self.convergence

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        return False

    def evaluations(self, steps: int, *, to_clean: bool = True) -> int:
        """Network evaluations for that many steps, without guidance.

        Args:
            steps: How many.
            to_clean: Whether the last one arrives at clean data (sigma = 0).
        """
        return steps * self.per_step

    def steps_for(self, evaluations: int, *, to_clean: bool = True) -> int:
        """Steps that cost at most so many evaluations, arguments as for `evaluations`.

        Raises:
            UsageError: Not even one step fits.
        """
        steps = 0
        while self.evaluations(steps + 1, to_clean=to_clean) <= evaluations:
            steps += 1
        if steps < 1:
            raise UsageError(f"solver {self.kind!r} cannot do a step in {evaluations} evaluations; raise nfe")
        return steps

    def init(self, x: Tensor, grid: Sequence[float], path: PathPart) -> OnGrid:
        """State before the first step.

        Args:
            x: Noisy samples at grid[0], (B, ...).
            grid: Falling times, the last one included.
            path: Path of the model.
        """
        return self.memory(path, tuple(path.level(t) for t in grid))

    @abc.abstractmethod
    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """Move x from grid[i] to grid[i + 1].

        Args:
            denoise: (x, t) -> estimate.
            x: Samples at grid[i], (B, ...).
            state: From `init` or the step before.
            i: Step, from 0.
            noise: Randomness of these samples at this step; deterministic solvers draw nothing.
        """


def stochastic_transfer(
    estimate: Estimate, x: Tensor, here: Level, there: Level, eta: float
) -> tuple[Tensor, float | Tensor]:
    """Mean of a step that forgets part of its noise, and the standard deviation of the noise to add.

    With k2 = 1 - exp(-2h): std = eta sigma_s sqrt(k2); mean = alpha_s x0 + sqrt(sigma_s**2 - std**2) eps.

    Source: song2021ddim, Eqs. 12 and 16, in half-log-SNR form.
    """
    kept = here.alpha * there.sigma / (there.alpha * here.sigma)
    std = eta * there.sigma * (1 - kept**2) ** 0.5
    mean = there.alpha * estimate.x0 + (there.sigma**2 - std**2) ** 0.5 * estimate.eps(x, here)
    return mean, std
