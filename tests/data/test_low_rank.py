"""Low-rank mixtures: orthonormal subspaces that belong to the distribution, and points that fill them."""

from __future__ import annotations

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.data import DensityPart, LowRankMixture


@pytest.mark.parametrize("orthogonal", [False, True])
def test_bases_are_orthonormal_and_keyed(orthogonal: bool) -> None:
    data = LowRankMixture(ambient=20, rank=3, components=4, orthogonal=orthogonal)
    weights, bases, stds = data.parameters()
    assert bases.shape == (4, 20, 3)
    products = torch.einsum("knd,lne->kdle", bases, bases).reshape(12, 12)
    blocks = torch.block_diag(*[torch.ones(3, 3)] * 4).bool()
    identity = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(products[blocks], identity[blocks], rtol=0, atol=1e-12)
    assert (products - identity).abs().max().item() < (1e-12 if orthogonal else 1)
    assert weights.tolist() == [0.25] * 4
    assert stds.tolist() == [1] * 3
    again = data.replace(seed=5, count=3).parameters()[1]  # the seed is of the points alone
    assert torch.equal(again, bases)
    assert not torch.allclose(data.replace(subspaces=1).parameters()[1], bases)


def test_points_lie_in_their_subspace_with_its_spread() -> None:
    data = LowRankMixture(ambient=10, rank=2, weights=(0.25, 0.75), stds=(2.0, 0.5), count=8000, seed=3)
    loaded = data.load()
    batch = loaded.batch(torch.arange(8000))
    label, x0 = batch.cond.values["label"], batch.x0.double()
    assert loaded.shape == (10,)
    assert (label == 1).double().mean().item() == pytest.approx(0.75, abs=0.02)
    for number, basis in enumerate(data.parameters()[1]):
        own = x0[label == number]
        inside = own @ basis
        assert (own - inside @ basis.T).abs().max().item() < 1e-6
        covariance = inside.T @ inside / len(own)
        torch.testing.assert_close(covariance, torch.diag(torch.tensor([4.0, 0.25])).double(), rtol=0, atol=0.4)
    assert torch.equal(data.sample(10, seed=3), batch.x0[:10])


def test_it_claims_no_density() -> None:
    assert not issubclass(LowRankMixture, DensityPart)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ambient": 4, "rank": 4}, "does not fit ambient 4"),
        ({"ambient": 4, "rank": 3, "orthogonal": True}, "does not fit ambient 4"),
        ({"weights": (0.5, 0.6)}, "must be 2 numbers above 0 that sum to 1"),
        ({"stds": (1.0,)}, "must be 7 finite numbers above 0"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(LowRankMixture, fields)
