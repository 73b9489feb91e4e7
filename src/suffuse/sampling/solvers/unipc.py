"""UniPC: a predictor and a corrector from the same estimates, the corrector at no evaluation of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.process import Level, transfer
from suffuse.sampling.solvers.base import Estimator, OnGrid, SolverPart
from suffuse.sampling.solvers.exponential import finite_run, width

__all__ = ["UniPC"]


@dataclass(frozen=True)
class _Memory(OnGrid):
    """Grid, and what the corrector needs of the step before.

    Attributes:
        past: Estimates of the steps before, newest first.
        start: Where the step before started, corrected; None before the first step.
        order: Order of the step before.
    """

    past: tuple[Tensor, ...] = ()
    start: Tensor | None = None
    order: int = 1


class UniPC(SolverPart):
    """UniPC in its data form: multistep predictor of order p, corrected at the next step to order p + 1.

    Source: zhao2023unipc, Algorithms 1 and 2. Without corrector and of order 2 it is DPM-Solver++ 2M.

    Attributes:
        order: p.
        b: The function B(h) of the method: `b1` is h, `b2` is expm1(h), better at few steps.
        corrector: Correct where a step arrived, once the estimate there is known.
        lower_final: Let the order fall to 2 and 1 on the last two steps; the step to clean data is always of order 1.
    """

    kind: Literal["unipc"] = "unipc"
    memory: ClassVar[type[OnGrid]] = _Memory
    order: Literal[1, 2, 3] = 2
    b: Literal["b1", "b2"] = "b2"
    corrector: bool = True
    lower_final: bool = False

    @property
    def convergence(self) -> int:
        """At most 2 by the predictor, whose first step is of order 1; one more with the corrector."""
        return min(self.order, 2) + self.corrector

    @property
    def interior(self) -> int:
        """The chosen order, one more with the corrector."""
        return self.order + self.corrector

    def step(self, denoise: Estimator, x: Tensor, state: OnGrid, i: int, noise: Draws) -> tuple[Tensor, OnGrid]:
        """One evaluation."""
        assert isinstance(state, _Memory)
        x0 = denoise(x, float(state.levels[i].t)).x0
        if self.corrector and state.start is not None and finite_run(state.levels, i - 1, 1):
            x = self._corrected(state, i - 1, x0)
        known = (x0, *state.past)
        order = self._order_at(state, i)
        here, there = state.levels[i], state.levels[i + 1]
        arrived = transfer(x, x0, here, there) + self._change(state.levels, i, known[:order], arrival=None)
        return arrived, _Memory(state.path, state.levels, known[: self.order], x, order)

    def _order_at(self, state: _Memory, i: int) -> int:
        """Order of the predictor: what is asked for, as far as there are estimates over steps of finite width."""
        order = min(self.order, len(state.past) + 1)
        if self.lower_final:
            order = min(order, len(state.levels) - 1 - i)
        return max(1, min(order, finite_run(state.levels, i, order)))

    def _corrected(self, state: _Memory, i: int, arrival: Tensor) -> Tensor:
        """Where step i should have arrived, by the estimate at its end."""
        assert state.start is not None
        here, there = state.levels[i], state.levels[i + 1]
        known = state.past[: state.order]
        return transfer(state.start, known[0], here, there) + self._change(state.levels, i, known, arrival=arrival)

    def _change(
        self, levels: Sequence[Level], i: int, known: Sequence[Tensor], *, arrival: Tensor | None
    ) -> Tensor | float:
        """What a step of higher order adds to one of order 1.

        Args:
            levels: Of the grid.
            i: The step.
            known: Estimates at its start and before, newest first.
            arrival: Estimate at its end, for the corrector.
        """
        if len(known) == 1 and arrival is None:
            return 0.0
        h = width(levels[i], levels[i + 1])
        places = [-width(levels[i - m], levels[i]) / h for m in range(1, len(known))]
        changes = [(value - known[0]) / place for value, place in zip(known[1:], places, strict=True)]
        if arrival is not None:
            places, changes = [*places, 1.0], [*changes, arrival - known[0]]
        scale = -h if self.b == "b1" else math.expm1(-h)
        weights = _weights(-h, scale, places)
        factor = -float(levels[i + 1].alpha) * scale
        total = factor * float(weights[0]) * changes[0]
        for weight, change in zip(weights[1:].tolist(), changes[1:], strict=True):
            total = total + factor * weight * change
        return total


def _weights(hh: float, scale: float, places: Sequence[float]) -> NDArray[np.float64]:
    """Weights of the differences: zhao2023unipc, Eq. 9; a single one is 1/2, whatever its place."""
    count = len(places)
    if count == 1:
        return np.array([0.5])
    right, g = [], math.expm1(hh) / hh - 1
    for j in range(1, count + 1):
        right.append(g * math.factorial(j) / scale)
        g = g / hh - 1 / math.factorial(j + 1)
    matrix = np.vander(np.array(places), count, increasing=True).T
    return np.asarray(np.linalg.solve(matrix, np.array(right)))
