"""What the tests of sampling share: the solvers of the joint's table, exact mixtures, and a bare solver loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Literal, get_args, get_origin

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from suffuse.claims.exact import trajectories
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, VP, Flow, PathPart, TrigonometricPath
from suffuse.sampling import Adaptive, Consistency, Solver, SolverPart

# Settings that are no choice among names, and without which a stochastic solver would be tested as a deterministic one.
_SDE = tuple({"sde": True, "order": o, "variant": v} for o in (1, 2, 3) for v in ("midpoint", "heun"))
_ODE = tuple({"tau": 0.0, "order": order, "correct": correct} for order, correct in ((1, 2), (2, 0), (3, 0), (3, 3)))
_STOCHASTIC = {"ddim": ({"eta": 0.5}, {"eta": 1.0}), "heun": ({"churn": 4.0},), "dpmpp": _SDE, "sa": _ODE}
_PATHS = {"vp": VP(), "edm": EDM(), "flow": Flow(), "trigonometric": TrigonometricPath()}


def _variants(part: type[SolverPart]) -> Iterator[SolverPart]:
    """A solver with all combinations of its choices among names and orders, and its stochastic settings."""
    fields = {name: field.annotation for name, field in part.model_fields.items() if name != "kind"}
    choices = {name: get_args(kind) for name, kind in fields.items() if get_origin(kind) is Literal}
    for values in itertools.product(*choices.values()):
        try:
            yield part(**dict(zip(choices, values, strict=True)))
        except ValidationError:  # choices that exclude each other
            continue
    kind = part.model_fields["kind"].default
    yield from (part(**setting) for setting in _STOCHASTIC.get(kind, ()))


def _name(solver: SolverPart) -> str:
    plain, own = type(solver)().dump(), solver.dump()
    return "-".join([solver.kind, *(f"{key}={value}" for key, value in own.items() if value != plain[key])])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Arguments `solver`, `deterministic`, ... run over the joint's table, `path` over the kinds of path.

    `in_time` are those that integrate over the path's own time, `in_log_snr` the others.
    """
    parts = get_args(Solver)[1].parts.values()
    # Multistep consistency sampling follows no trajectory; its tests are those of flow maps. Adaptive steps are counted
    # only while they are taken; they have tests of their own.
    solvers = [variant for part in parts if part not in (Consistency, Adaptive) for variant in _variants(part)]
    tables = {
        "solver": solvers,
        "deterministic": [solver for solver in solvers if not solver.stochastic],
        "stochastic": [solver for solver in solvers if solver.stochastic],
        "in_time": [solver for solver in solvers if solver.dump().get("variable") == "time"],
        "in_log_snr": [solver for solver in solvers if solver.dump().get("variable") != "time"],
    }
    for argument, table in tables.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, table, ids=_name)
    if "path" in metafunc.fixturenames:
        metafunc.parametrize("path", _PATHS.values(), ids=list(_PATHS))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors of some hundred numbers: a second thread brings nothing, and costs twenty times on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mixture() -> Callable[[PathPart], ExactMixture]:
    """Three Gaussians on a line."""
    return trajectories.three_normals


@pytest.fixture(scope="session")
def gaussian() -> Callable[[PathPart], ExactMixture]:
    """Data N(0.7, 0.4**2)."""
    return trajectories.one_normal


@pytest.fixture(scope="session")
def times_at() -> Callable[[PathPart, Tensor], list[float]]:
    """Times of half log-SNRs."""
    return lambda path, half_log_snr: path.t_of(half_log_snr).tolist()


@pytest.fixture(scope="session")
def integrate() -> Callable[..., Tensor]:
    """The loop without its comforts: solver steps from x at times[0] to the last time."""
    return trajectories.integrate


@pytest.fixture(scope="session")
def moments() -> Callable[..., tuple[float, float]]:
    """Mean and variance with which a solver ends on Gaussian data, without sampling."""
    return trajectories.moments
