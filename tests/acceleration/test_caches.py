"""Caches for transformers: forecasts, thresholds, and merged tokens."""

from __future__ import annotations

import pytest
import torch

from acceleration.tiny_models import made
from suffuse.acceleration import (
    FirstBlockCache,
    HeldBlocks,
    Taylor,
    TeaCache,
    TokenMerging,
    applied,
)
from suffuse.acceleration.caches.token_merging import _matched
from suffuse.base.errors import UsageError
from suffuse.models.denoiser import Denoiser
from suffuse.process import Identity


def test_features_are_extrapolated_by_a_polynomial():
    """A transformer whose blocks see a time that rises evenly, held against the same polynomial by hand."""
    from suffuse.acceleration.plan import Moment
    from suffuse.acceleration.reuse import History

    places = (-3.0, -1.5, 0.25)
    polynomial = lambda place: torch.tensor([2.0 - place + 0.5 * place**2, place**2])  # noqa: E731
    history = History(order=2)
    for step, place in enumerate(places):
        history.keep(Moment(step, None, torch.zeros(1), place), {"a": polynomial(place)})
    torch.testing.assert_close(history.at(1.0)["a"], polynomial(1.0))
    held = History(order=0)
    for step, place in enumerate(places):
        held.keep(Moment(step, None, torch.zeros(1), place), {"a": polynomial(place)})
    assert torch.equal(held.at(1.0)["a"], polynomial(places[-1]))


def test_extrapolation_comes_closer_than_holding(dit):
    """Where features are smooth in the time, which those of random weights are only if it is told in small numbers."""
    smooth = Denoiser(dit.network, path=dit.path, prediction=dit.prediction, time=Identity(scale=1.0))
    plain = made(smooth, steps=40)
    errors = []
    for order in (0, 1):
        with applied(smooth, Taylor(every=3, order=order)):
            errors.append((made(smooth, steps=40) - plain).square().mean().sqrt().item())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("kind", [FirstBlockCache, TeaCache])
def test_a_higher_threshold_computes_less_and_strays_further(dit, kind):
    plain = made(dit, steps=30)
    spent, errors = [], []
    for threshold in (1e-9, 0.05, 0.5):
        with applied(dit, kind(threshold=threshold)) as run:
            errors.append((made(dit, steps=30) - plain).square().mean().item())
        spent.append(run.timeline().total)
    assert spent[0] == 1
    assert spent == sorted(spent, reverse=True)
    assert spent[-1] < spent[0]
    assert errors == sorted(errors)


def test_a_threshold_waits_no_longer_than_allowed(dit):
    with applied(dit, FirstBlockCache(threshold=100.0, longest=2)) as run:
        made(dit, steps=9)
    full = [sum(len(asked.computed) for asked in step) == len(dit.network.graph) for step in run.timeline().asked]
    assert full == [True, False, False] * 3


def test_threshold_caches_can_leave_out_the_ends(dit):
    with applied(dit, FirstBlockCache(threshold=100.0, front=1, back=1)) as run:
        made(dit, steps=3)
    names = {name for asked in run.timeline().asked[1] for name in asked.computed}
    assert {"blocks.0.residual", "blocks.3.residual"} <= names
    assert not {"blocks.1.residual", "blocks.2.residual"} & names


def test_merging_nothing_only_orders_tokens():
    x = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    merge, part = _matched(x, (4, 4), 0.0, step=0)
    assert merge(x).shape == x.shape
    assert torch.equal(part(merge(x)), x)


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_tokens_that_were_merged_get_the_output_of_the_one_they_joined(ratio, step):
    x = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(step))
    merge, part = _matched(x, (4, 4), ratio, step)
    short = merge(x)
    assert short.shape == (2, 16 - int(ratio * 16), 8)
    again = part(short)
    assert again.shape == x.shape
    for sample, few in zip(again, short, strict=True):
        assert len(sample.unique(dim=0)) == len(few.unique(dim=0))
        assert {tuple(row) for row in sample.tolist()} == {tuple(row) for row in few.tolist()}


def test_the_likest_tokens_are_merged_first():
    """One token away from its cell's chosen place is a copy of it, all others are strangers."""
    x = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))
    x[0, 1] = x[0, 0]
    merge, part = _matched(x, (4, 4), 1 / 16, step=0)
    torch.testing.assert_close(part(merge(x)), x)


def test_merging_only_touches_the_finest_attention(unet):
    """With a level of half the resolution merged as well, samples differ from those of the finest alone."""
    plain = made(unet)
    with applied(unet, TokenMerging(ratio=0.5)):
        finest = made(unet)
    with applied(unet, TokenMerging(ratio=0.5, finest=2)):
        both = made(unet)
    assert not torch.equal(finest, plain)
    assert not torch.equal(both, finest)


def test_held_blocks_are_any_blocks(unet):
    with applied(unet, HeldBlocks(blocks=("mid",), every=2)) as run:
        made(unet)
    assert "mid" not in run.timeline().asked[1][0].computed
    with pytest.raises(UsageError, match="down"), applied(unet, HeldBlocks(blocks=("down.9",))):
        pass
    with pytest.raises(UsageError, match="leave the network out"), applied(unet, HeldBlocks(blocks=("output",))):
        pass
