"""Regions: which tokens are chosen, and what the others keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from acceleration.tiny_models import our_dit
from suffuse.acceleration import RegionAdaptive, applied
from suffuse.acceleration.region_adaptive import _RegionAdaptive
from suffuse.networks.contract import TokenMemory, Tokens
from suffuse.sampling import Euler, Uniform, sample

SHAPE = (3, 8, 8)


def noise(seed: int) -> Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))


def chosen(plan: RegionAdaptive, moved: Tensor, times: int = 1) -> list[Tensor]:
    policy = _RegionAdaptive(plan, patch=2)
    return [policy._chosen(moved, step) for step in range(times)]


def moves(scores: list[float]) -> Tensor:
    """A movement of two channels whose deviation over channels is as given, one value a token."""
    side = int(len(scores) ** 0.5)
    pixels = torch.tensor(scores).view(1, 1, side, side).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return torch.cat([pixels, -pixels], dim=1)


SCORES = [0.1 * k for k in range(16)]


@pytest.mark.parametrize(("high", "kept"), [(0.0, range(8, 16)), (1.0, range(8)), (0.25, range(6, 14))])
@pytest.mark.parametrize("published", [False, True])
def test_the_middle_of_the_order_runs(high, kept, published):
    plan = RegionAdaptive(ratio=0.5, high=high, starvation=0, published=published)
    (index,) = chosen(plan, moves(SCORES))
    assert index.tolist() == [list(kept)]


def test_a_norm_scores_as_well():
    plan = RegionAdaptive(ratio=0.25, high=0.0, score="norm", starvation=0)
    assert chosen(plan, moves(SCORES[::-1]))[0].tolist() == [[0, 1, 2, 3]]


def test_so_many_tokens_run_as_were_asked_for():
    for ratio, count in ((0.1, 2), (0.25, 4), (0.33, 6), (0.5, 8), (0.75, 12), (0.9, 15)):
        (index,) = chosen(RegionAdaptive(ratio=ratio), moves(SCORES))
        assert index.shape == (1, count)


def test_no_token_starves_when_waiting_counts_for_much():
    plan = RegionAdaptive(ratio=0.25, starvation=10.0)
    ran = torch.cat(chosen(plan, moves(SCORES), times=4), dim=1)
    assert sorted(ran[0].tolist()) == list(range(16))


def test_without_a_guard_the_same_tokens_run_always():
    index = chosen(RegionAdaptive(ratio=0.25, starvation=0.0), moves(SCORES), times=3)
    assert all(torch.equal(index[0], other) for other in index)


def test_each_sample_has_its_own_tokens():
    both = torch.cat([moves(SCORES), moves(SCORES[::-1])])
    (index,) = chosen(RegionAdaptive(ratio=0.5, high=0.0, starvation=0), both)
    assert index.tolist() == [list(range(8, 16)), list(range(8))]


def test_the_choice_commutes_with_a_permutation_of_tokens():
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    plan = RegionAdaptive(ratio=0.5, starvation=0)
    (plain,), (turned,) = chosen(plan, moves(SCORES)), chosen(plan, moves([SCORES[k] for k in order.tolist()]))
    assert set(order[turned[0]].tolist()) == set(plain[0].tolist())


def test_tokens_that_run_give_what_they_give_among_all():
    """With the same input and time the kept keys and values are exact."""
    network = our_dit().network
    x, told = noise(0), torch.tensor([0.3, 0.6])
    memory = TokenMemory()
    index = torch.tensor([[3, 0, 9, 12, 5], [15, 2, 7, 8, 1]])
    with torch.no_grad():
        plain = network(x, told).value
        assert torch.equal(network(x, told, tokens=Tokens(None, memory)).value, plain)
        torch.testing.assert_close(network(x, told, tokens=Tokens(index, memory)).value, plain, rtol=1e-5, atol=1e-5)


def test_tokens_that_do_not_run_keep_their_output():
    network = our_dit().network
    memory = TokenMemory()
    index = torch.tensor([[0, 3], [5, 9]])
    with torch.no_grad():
        before = network(noise(1), torch.tensor([0.3, 0.6]), tokens=Tokens(None, memory)).value
        after = network(noise(2), torch.tensor([0.3, 0.6]), tokens=Tokens(index, memory)).value
    same = torch.nn.functional.avg_pool2d((after == before).float().amin(1, keepdim=True), 2).flatten(1) == 1
    assert (~same).nonzero().tolist() == [[0, 0], [0, 3], [1, 5], [1, 9]]


def test_steps_that_run_all_tokens():
    plan = RegionAdaptive(start=4, reset_every=8)
    assert [step for step in range(28) if plan.dense(step)] == [0, 1, 2, 3, 12, 20]
    assert [step for step in range(9) if RegionAdaptive(reset_every=None).dense(step)] == [0, 1, 2, 3]
    model = our_dit()
    with applied(model, plan) as run:
        sample(model, 2, shape=SHAPE, solver=Euler(variable="time"), grid=Uniform(steps=14))
    shares = [asked[0].tokens for asked in run.timeline().asked]
    assert shares == [1.0 if plan.dense(step) else 0.5 for step in range(14)]


def test_halves_of_a_guidance_choose_the_same_tokens():
    """The score is what moved, which both halves share."""
    moved = moves(SCORES)
    (index,) = chosen(RegionAdaptive(), moved.repeat(2, 1, 1, 1))
    assert torch.equal(index[0], index[1])
