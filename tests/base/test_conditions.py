"""Conditions, batches and calls: records that are cut, joined and moved together."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from suffuse.base.batch import Batch
from suffuse.base.call import Call
from suffuse.base.conditions import Conditions


@pytest.fixture
def conditions() -> Conditions:
    return Conditions.of(label=torch.tensor([3, 1, 2]), text=torch.arange(6.0).reshape(3, 2))


def test_absent_is_a_mask_and_keeps_the_values(conditions: Conditions) -> None:
    absent = conditions.absent()
    assert all(not mask.any() for mask in absent.present.values())
    assert torch.equal(absent.values["label"], conditions.values["label"])
    assert conditions.present["label"].all(), "the original is left as it was"


def test_dropping_everyone_is_absent_and_no_one_is_neutral(conditions: Conditions) -> None:
    everyone, no_one = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    for name, mask in conditions.drop(everyone).present.items():
        assert torch.equal(mask, conditions.absent().present[name])
    for name, mask in conditions.drop(no_one).present.items():
        assert torch.equal(mask, conditions.present[name])


def test_dropping_is_per_sample_and_never_restores(conditions: Conditions) -> None:
    dropped = conditions.drop(torch.tensor([True, False, False])).drop(torch.tensor([False, False, True]))
    assert all(mask.tolist() == [False, True, False] for mask in dropped.present.values())


def test_cat_undoes_cutting(conditions: Conditions) -> None:
    mixed = conditions.drop(torch.tensor([True, False, False]))
    again = mixed[:1].cat(mixed[1:])
    for name in mixed.values:
        assert torch.equal(again.values[name], mixed.values[name])
        assert torch.equal(again.present[name], mixed.present[name])
    assert mixed[torch.tensor([2, 0])].values["label"].tolist() == [2, 3]


def test_no_conditions_are_false(conditions: Conditions) -> None:
    assert not Conditions()
    assert conditions
    assert conditions.absent(), "absent conditions are still conditions: guidance needs both halves alike"


def test_a_batch_is_cut_in_all_its_tensors(conditions: Conditions) -> None:
    batch = Batch(
        x0=torch.arange(3.0)[:, None], eps=-torch.arange(3.0)[:, None], cond=conditions, index=torch.arange(3)
    )
    part = batch[torch.tensor([2, 0])]
    assert part.x0 is not None
    assert part.x0[:, 0].tolist() == [2, 0]
    assert part.eps is not None
    assert part.eps[:, 0].tolist() == [-2, 0]
    assert part.cond.values["label"].tolist() == [2, 3]
    assert part.index is not None
    assert part.index.tolist() == [2, 0]
    assert part.mask is None


def test_a_batch_moves_with_its_conditions(conditions: Conditions) -> None:
    moved = Batch(x0=torch.zeros(3, 2), cond=conditions).to("meta")
    assert moved.x0 is not None
    assert moved.x0.device.type == "meta"
    assert {value.device.type for value in (*moved.cond.values.values(), *moved.cond.present.values())} == {"meta"}


def test_a_call_is_changed_by_copy() -> None:
    call = Call(step=1, steps=4)
    later = call.replace(step=2, streams=("uncond", "cond"))
    assert (call.step, later.step, later.steps, later.streams) == (1, 2, 4, ("uncond", "cond"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        call.step = 3  # type: ignore[misc]  # the point of the test


def test_more_values_are_present_and_what_was_there_keeps_its_mask() -> None:
    cond = Conditions.of(label=torch.arange(3)).drop(torch.tensor([True, False, False]))
    more = cond.plus(low_res=torch.ones(3, 1, 2, 2))
    assert more.present["low_res"].tolist() == [True, True, True]
    assert more.present["label"].tolist() == [False, True, True]
    assert set(cond.values) == {"label"}
    again = more.plus(label=torch.arange(3) + 5)
    assert again.values["label"].tolist() == [5, 6, 7]
    assert bool(again.present["label"].all())
    assert more.absent().cat(more).values["low_res"].shape == (6, 1, 2, 2), "guidance stacks images as it does labels"


def test_guidance_s_other_half_is_made_once() -> None:
    cond = Conditions.of(label=torch.arange(3))
    assert cond.absent() is cond.absent()
    assert cond.both is cond.both
    assert cond.both.present["label"].tolist() == [False] * 3 + [True] * 3


def test_what_is_led_away_from_may_have_a_name_of_its_own() -> None:
    cond = Conditions.of(known=torch.zeros(2, 1)).against(Conditions.of(caption=torch.ones(2, 4, dtype=torch.int64)))
    assert not cond.present["caption"].any()
    assert cond.absent().present["caption"].all()
    assert cond.both.values["caption"].shape == (4, 4)
    assert cond.both.present["caption"].tolist() == [True, True, False, False]
