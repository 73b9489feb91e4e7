"""The family of solvers: each has its order measured in the ledger, and one is not what it is called."""

from __future__ import annotations

from typing import get_args

import pytest

from suffuse.claims.exact import SolverOrder
from suffuse.claims.solvers.orders import DETERMINISTIC, STOCHASTIC
from suffuse.sampling import DPMSolverPP, Solver, SolverPart

# Solvers without an order that even steps on a known density could show.
NO_ORDER = {
    "adaptive": "chooses its steps by a tolerance",
    "consistency": "jumps of a learned map, with noise between",
    "map_steps": "steps of a learned map",
}


def _key(solver: SolverPart) -> tuple[str, object]:
    return solver.kind, solver.dump().get("order")


def test_every_kind_has_its_order_measured() -> None:
    measured = {solver.kind for solver in (*DETERMINISTIC.values(), *STOCHASTIC.values())}
    assert measured == set(get_args(Solver)[1].parts) - set(NO_ORDER)


def test_every_order_of_a_deterministic_solver_is_measured(deterministic: SolverPart) -> None:
    assert deterministic.kind in NO_ORDER or _key(deterministic) in map(_key, DETERMINISTIC.values())


def test_every_order_of_a_stochastic_solver_is_measured(stochastic: SolverPart) -> None:
    assert stochastic.kind in NO_ORDER or _key(stochastic) in map(_key, STOCHASTIC.values())


def test_names_stand_for_what_they_say() -> None:
    assert not any(solver.stochastic for solver in DETERMINISTIC.values())
    assert all(solver.stochastic for solver in STOCHASTIC.values())


@pytest.mark.parametrize(("published", "expected"), [(True, 2), (False, 3)])
def test_only_with_twice_the_copied_weight_is_the_third_order_one(*, published: bool, expected: int) -> None:
    solver = DPMSolverPP(order=3, published=published)
    found = SolverOrder(solver=solver, counts=(80, 160, 320), shown=()).of(0)
    assert found["going"] == pytest.approx(expected, abs=0.2)
    assert solver.interior == found["declared_going"] == expected
