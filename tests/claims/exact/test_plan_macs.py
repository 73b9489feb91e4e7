"""Multiply-accumulates of published shapes: known numbers, and what a plan's own arithmetic says."""

from __future__ import annotations

import pytest

from suffuse.acceleration import DeepCache, EncoderReuse
from suffuse.claims.exact import PlanMacs

pytest.importorskip("diffusers")


def test_stable_diffusion_has_its_weights_and_a_run_is_made_of_two_kinds_of_calls():
    once = PlanMacs(network="sd15", plan=DeepCache(every=2), steps=1).of(0)
    assert once["weights"] == pytest.approx(859.52, abs=0.01)
    assert once["ratio"] == 1
    two, four = (PlanMacs(network="sd15", plan=DeepCache(every=2), steps=steps).of(0)["ratio"] for steps in (2, 4))
    assert two == pytest.approx(four)
    three = PlanMacs(network="sd15", plan=DeepCache(every=2), steps=3).of(0)["ratio"]
    cached = 2 / two - 1  # share of a full call
    assert three == pytest.approx(3 / (2 + cached))


def test_decoders_at_once_take_as_much_as_one_after_the_other():
    apart, together = (
        PlanMacs(network="sd15", plan=EncoderReuse(every=2, parallel=parallel), steps=4).of(0)["ratio"]
        for parallel in (False, True)
    )
    assert together == pytest.approx(apart, rel=1e-3)
