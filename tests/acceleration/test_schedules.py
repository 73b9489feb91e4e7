"""Schedules of refreshes: the published lists, and what makes no schedule."""

import pytest

from acceleration.tiny_models import made, our_dit, our_unet
from suffuse.acceleration import (
    DeepCache,
    EncoderReuse,
    FirstBlockCache,
    RegionAdaptive,
    ResidualReuse,
    Taylor,
    TokenMerging,
    applied,
)
from suffuse.acceleration.schedule import power_steps, published_power_steps, uniform_steps
from suffuse.base.errors import UsageError


@pytest.mark.parametrize(
    ("steps", "every", "centre", "power", "published"),
    [
        (50, 5, 15, 1.4, (0, 5, 9, 13, 17, 21, 26, 31, 37, 43)),
        (50, 10, 15, 1.4, (0, 9, 17, 26, 37)),
        (50, 5, 10, 1.2, (0, 5, 9, 12, 16, 21, 26, 32, 38, 43)),
    ],
)
def test_lists_of_the_papers_code(steps: int, every: int, centre: float, power: float, published: tuple[int, ...]):
    assert published_power_steps(steps, every, centre, power) == published


def test_a_long_list_of_the_papers_code():
    found = published_power_steps(250, 10, 120, 1.2)
    assert found[:15] == (0, 12, 22, 33, 44, 54, 64, 74, 83, 93, 102, 111, 120, 128, 137)


def test_signed_powers_are_densest_around_the_centre():
    assert power_steps(50, 5, 15, 1.4) == (0, 6, 11, 14, 15, 19, 24, 29, 35, 42)
    assert power_steps(50, 10, 15, 1.4) == (0, 11, 15, 24, 35)


def test_a_centre_at_the_start_makes_squares():
    assert power_steps(100, 10, 0, 2.0) == tuple(k * k for k in range(10))


@pytest.mark.parametrize("steps", [1, 7, 20, 50])
def test_all_schedules_start_at_step_0(steps: int):
    for found in (uniform_steps(steps, 3), power_steps(steps, 3, 0, 1.2), published_power_steps(steps, 3, 0, 1.2)):
        assert found[0] == 0
        assert sorted(set(found)) == list(found)
        assert found[-1] < steps


def test_the_published_key_steps_are_brought_to_other_lengths():
    assert EncoderReuse().refreshes(50) == (0, 1, 2, 3, 5, 10, 15, 25, 35)
    assert EncoderReuse().refreshes(100) == (0, 2, 4, 6, 10, 20, 30, 50, 70)
    assert EncoderReuse(every=4).refreshes(10) == (0, 4, 8)


def test_a_list_that_is_longer_than_the_run_is_refused():
    plan = DeepCache(refresh=(0, 5, 30))
    assert plan.refreshes(31) == (0, 5, 30)
    with pytest.raises(UsageError, match="refreshes at step 30, but there are only 20 steps"):
        plan.refreshes(20)


def test_a_schedule_that_needs_the_length_says_so():
    with pytest.raises(UsageError, match="needs to know the number of steps"):
        DeepCache(schedule="power").refreshes(None)


def test_steps_that_fall_are_no_list():
    with pytest.raises(ValueError, match="rising"):
        DeepCache(refresh=(0, 5, 3))


def test_a_preview_is_what_runs_later():
    timeline = DeepCache(every=4, branch=1).preview(our_unet().network, 9)
    assert [len(asked[0].computed) == len(timeline.names) for asked in timeline.asked] == [
        step in (0, 4, 8) for step in range(9)
    ]
    assert timeline.asked[1][0].computed == ("stem", "down.0.0", "up.1.1", "up.1.2", "output")
    assert "0, 4, 8 | 3 | everything" in timeline.table()


@pytest.mark.parametrize(
    "plan",
    [
        DeepCache(every=4, branch=1),
        DeepCache(every=3, schedule="power", power=1.2),
        DeepCache(every=1, schedule="power"),
        EncoderReuse(),
        EncoderReuse(parallel=True),
        EncoderReuse(every=4, parallel=True),
        TokenMerging(),
    ],
    ids=lambda plan: plan.kind,
)
def test_what_was_seen_before_is_what_ran(unet, plan):
    seen = plan.preview(unet.network, 9)
    with applied(unet, plan) as run:
        made(unet, steps=9)
    assert run.timeline().asked == seen.asked


@pytest.mark.parametrize(
    "plan", [ResidualReuse(), Taylor(), Taylor(refresh=(0, 6)), RegionAdaptive()], ids=lambda plan: plan.kind
)
def test_what_was_seen_of_a_transformer_is_what_ran(dit, plan):
    seen = plan.preview(dit.network, 9)
    with applied(dit, plan) as run:
        made(dit, steps=9)
    assert run.timeline().asked == seen.asked


def test_a_schedule_of_its_own_is_not_said_twice():
    assert EncoderReuse(refresh=(0, 3)).refreshes(10) == (0, 3)
    with pytest.raises(UsageError, match="schedule=uniform"):
        EncoderReuse().replace(every=4)
    assert EncoderReuse().replace(every=4, schedule="uniform").refreshes(9) == (0, 4, 8)


def test_warm_up_counts_whatever_the_schedule():
    assert Taylor(every=3, warm_up=3).refreshes(10) == (0, 1, 2, 5, 8)
    assert [step for step in range(10) if Taylor(every=3, warm_up=3).newest(step) == step] == [0, 1, 2, 5, 8]
    assert Taylor(warm_up=2, refresh=(0, 6)).refreshes(10) == (0, 1, 6)


def test_a_plan_that_decides_while_it_runs_has_no_preview():
    with pytest.raises(UsageError, match="decides while it runs"):
        FirstBlockCache().preview(our_dit().network, 10)
