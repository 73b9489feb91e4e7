"""The time-Lipschitz constant: of functions whose derivative is known, and always at the same samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from suffuse.metrics import time_lipschitz


def constant(t: float) -> Tensor:
    return torch.full((5, 3), 2.0, dtype=torch.float64)


def test_a_linear_function_has_its_slope_times_the_norm_of_the_sample() -> None:
    found = time_lipschitz(lambda x, t: 7 * t * x, constant, [0.0, 0.5], 0.01)
    assert found.tolist() == pytest.approx([7 * 2 * 3**0.5] * 2)
    assert time_lipschitz(lambda x, t: 7 * t * x, constant, [0.0], 0.01, span=10).item() == pytest.approx(found[0] * 10)


def test_samples_that_move_do_not_count() -> None:
    """With x taken at t + step in the second term, this would be 1 / step and more."""
    found = time_lipschitz(lambda x, t: x, lambda t: torch.full((2, 1), 1000 * t), [0.1, 0.9], 0.01)
    assert found.tolist() == [0.0, 0.0]


def test_it_is_a_mean_over_samples() -> None:
    x = torch.tensor([[1.0], [3.0]])
    assert time_lipschitz(lambda x, t: t * x, lambda t: x, [0.0], 0.5).item() == pytest.approx(2.0)
