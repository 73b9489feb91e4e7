"""Couplings: exact transport against an independent solver, and what stays with its sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys, normal
from suffuse.process import Independent, OptimalTransport


def _noise(n: int, stream: str, *shape: int) -> torch.Tensor:
    return normal(keys(0, stream, 0, torch.arange(n)), shape)


def _cost(x0: torch.Tensor, eps: torch.Tensor) -> float:
    return (x0.double() - eps.double()).square().sum().item()


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_transport_is_the_cheapest_permutation(shape: tuple[int, ...]) -> None:
    x0, eps = _noise(64, "x0", *shape), _noise(64, "eps", *shape)
    order = OptimalTransport().order(x0, eps)
    assert torch.equal(order.sort().values, torch.arange(64))
    costs = torch.cdist(x0.flatten(1).double(), eps.flatten(1).double()).square().numpy()
    rows, columns = linear_sum_assignment(costs)
    assert _cost(x0, eps[order]) == pytest.approx(float(costs[rows, columns].sum()), rel=1e-9)
    assert _cost(x0, eps[order]) < _cost(x0, eps)


def test_within_classes_noise_stays_in_its_class() -> None:
    x0, eps, labels = _noise(40, "x0", 3), _noise(40, "eps", 3), torch.arange(40) % 4
    order = OptimalTransport().order(x0, eps, labels)
    assert torch.equal(labels[order], labels)
    assert torch.equal(order.sort().values, torch.arange(40))
    for label in range(4):
        rows = (labels == label).nonzero()[:, 0]
        costs = torch.cdist(x0[rows].double(), eps[rows].double()).square().numpy()
        mine = (x0[rows].double() - eps[order[rows]].double()).square().sum().item()
        assert mine == pytest.approx(float(costs[linear_sum_assignment(costs)].sum()), rel=1e-9)


def test_across_classes_it_is_cheaper() -> None:
    x0, eps, labels = _noise(40, "x0", 3), _noise(40, "eps", 3), torch.arange(40) % 4
    across = OptimalTransport(within="batch").order(x0, eps, labels)
    inside = OptimalTransport().order(x0, eps, labels)
    assert _cost(x0, eps[across]) <= _cost(x0, eps[inside])


def test_degenerate_batches() -> None:
    same = torch.zeros(5, 2)
    assert np.array_equal(np.sort(OptimalTransport().order(same, same).numpy()), np.arange(5))
    with pytest.raises(UsageError, match=r"raise training\.batch"):
        OptimalTransport().check(1)
    Independent().check(1)


def test_a_batch_with_one_sample_of_each_class_has_hardly_anything_to_exchange() -> None:
    told = OptimalTransport().remark(19, classes=10)
    assert told is not None
    assert "hardly two samples of each of 10 classes to exchange noise; raise it to 20 at least" in told
    assert OptimalTransport().remark(20, classes=10) is None
    assert OptimalTransport(within="batch").remark(2, classes=10) is None
    assert Independent().remark(2, classes=10) is None
