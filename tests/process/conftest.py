"""What the tests of the process share: every kind of path, and times inside each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from suffuse.process import EDM, VP, Flow, PathPart, TrigonometricPath

PATHS: dict[str, PathPart] = {
    "linear": VP(),
    "cosine": VP(schedule="cosine"),
    "plain_cosine": VP(schedule="plain_cosine"),
    "linear_early": VP(beta_min=0.2, beta_max=12.0, t_end=0.9),
    "linear_zero_snr": VP(zero_terminal_snr=True),
    "cosine_zero_snr": VP(schedule="cosine", t_end=0.95, zero_terminal_snr=True),
    "table_linear": VP(steps=1000),
    "table_scaled": VP(schedule="scaled_linear", steps=1000),
    "table_cosine": VP(schedule="cosine", steps=1000),
    "table_plain_cosine": VP(schedule="plain_cosine", steps=50),
    "table_betas": VP(schedule="betas", betas=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.4)),
    "table_linear_zero_snr": VP(steps=1000, zero_terminal_snr=True),
    "table_scaled_zero_snr": VP(schedule="scaled_linear", steps=1000, zero_terminal_snr=True),
    "linear_straight": VP(straight_below=0.1),
    "table_straight": VP(steps=1000, straight_below=100),
    "edm": EDM(),
    "flow": Flow(),
    "trigonometric": TrigonometricPath(),
    "trigonometric_half": TrigonometricPath(sigma_data=0.5),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The argument `path` runs over all paths, `table` and `zero_snr` over those with indices and without signal."""
    wanted = {
        "path": PATHS,
        "table": {name: path for name, path in PATHS.items() if path.indices is not None},
        "zero_snr": {name: path for name, path in PATHS.items() if name.endswith("zero_snr")},
        "vp": {name: path for name, path in PATHS.items() if path.kind == "vp"},
    }
    for argument, paths in wanted.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, paths.values(), ids=list(paths))


@pytest.fixture(scope="session")
def times() -> Callable[..., Tensor]:
    """Rising times strictly inside a path, (n,) float64; on tables none lies near an index, where derivatives jump."""

    def inside(path: PathPart, n: int = 41) -> Tensor:
        share = torch.linspace(0.004, 0.996, n, dtype=torch.float64)
        if path.told_scale is None:
            return path.t_min * (path.t_max / path.t_min) ** share
        t = path.t_clean + share * (path.t_max - path.t_clean)
        return t if path.indices is None else (t.floor() + 0.37).unique()

    return inside


@pytest.fixture(scope="session")
def moderate_times(times: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Times at which neither alpha nor sigma is small, |lambda| < `bound`."""

    def inside(path: PathPart, bound: float = 4.0) -> Tensor:
        t = times(path, 161)
        return t[path.half_log_snr(t).abs() < bound]

    return inside
