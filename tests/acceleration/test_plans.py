"""Plans on our own denoisers: neutral settings, what is reused, streams, runs, and what is refused."""

from __future__ import annotations

import pytest
import torch

from acceleration.tiny_models import at, made, noise, our_unet, randomised
from suffuse.acceleration import (
    DeepCache,
    EncoderReuse,
    FirstBlockCache,
    MacCounter,
    NoPlan,
    PlanPart,
    RegionAdaptive,
    ResidualReuse,
    Taylor,
    TeaCache,
    TokenMerging,
    applied,
    block_macs,
    counted_macs,
)
from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.models.conditioner import ClassLabel
from suffuse.models.denoiser import Denoiser
from suffuse.sampling import CFG, Heun, Uniform

NEUTRAL_UNET: tuple[PlanPart, ...] = (
    NoPlan(),
    DeepCache(every=1),
    EncoderReuse(every=1),
    EncoderReuse(refresh=tuple(range(12))),
    TokenMerging(ratio=0),
)
NEUTRAL_DIT: tuple[PlanPart, ...] = (
    NoPlan(),
    ResidualReuse(every=1),
    Taylor(every=1),
    FirstBlockCache(threshold=1e-9),
    TeaCache(threshold=1e-9),
    RegionAdaptive(ratio=1.0),
    TokenMerging(ratio=0),
)


@pytest.mark.parametrize("plan", NEUTRAL_UNET, ids=lambda plan: plan.kind)
def test_a_neutral_plan_before_a_unet_is_bit_equal_to_none(unet, plan):
    plain = made(unet)
    with applied(unet, plan):
        assert torch.equal(made(unet), plain)


@pytest.mark.parametrize("plan", NEUTRAL_DIT, ids=lambda plan: plan.kind)
def test_a_neutral_plan_before_a_transformer_is_bit_equal_to_none(dit, plan):
    plain = made(dit)
    with applied(dit, plan):
        assert torch.equal(made(dit), plain)


@pytest.mark.parametrize("plan", [DeepCache(), EncoderReuse(), TokenMerging()], ids=lambda plan: plan.kind)
def test_after_the_context_all_is_as_it_was(unet, plan):
    def interrupted() -> None:
        with applied(unet, plan):
            assert not torch.equal(made(unet), plain)
            raise RuntimeError("on purpose")

    plain = made(unet)
    with pytest.raises(RuntimeError, match="on purpose"):
        interrupted()
    assert unet.planned is None
    assert torch.equal(made(unet), plain)


@pytest.mark.parametrize(
    "plan", [ResidualReuse(first=0), Taylor(), RegionAdaptive(start=1)], ids=lambda plan: plan.kind
)
def test_a_transformer_at_the_same_input_gives_the_same(dit, plan):
    x = noise(2)
    with torch.no_grad(), applied(dit, plan) as run:
        full = dit.denoise(x, 0.4, None, at(0))
        for step in range(1, 5):
            torch.testing.assert_close(dit.denoise(x, 0.4, None, at(step)), full, rtol=1e-5, atol=1e-5)
    assert run.timeline().total < 1


def test_each_evaluation_of_a_step_has_its_own_memory(unet):
    with applied(unet, DeepCache(every=2)) as run:
        made(unet, steps=6, solver=Heun(), grid=Uniform(steps=6, end="t_min"))
    assert [len(asked) for asked in run.timeline().asked] == [1] * 6


def _conditional() -> tuple[Denoiser, Conditions]:
    plain = our_unet()
    conditioner = ClassLabel(classes=4).build(plain.network.cond_width)
    randomised(conditioner, std=0.3)
    model = Denoiser(plain.network, path=plain.path, prediction=plain.prediction, conditioner=conditioner)
    return model, Conditions.of(label=torch.arange(4))


def test_halves_of_a_guidance_together_equal_halves_apart():
    model, cond = _conditional()
    with applied(model, DeepCache(every=3)):
        together = made(model, cond=cond, guidance=CFG(scale=3.0))
        apart = made(model, cond=cond, guidance=CFG(scale=3.0, together=False))
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


def test_a_stream_that_comes_back_does_not_use_what_is_old():
    """An interval of noise levels switches guidance on late: its first step computes everything."""
    model, cond = _conditional()
    with applied(model, DeepCache(every=4)) as run:
        made(model, cond=cond, guidance=CFG(scale=3.0, up_to=1.0))
        keys = run._asked  # of each stream
        late = keys[("uncond", "cond"), 0]
    first = min(late)
    assert first > 0
    assert len(late[first][0].computed) == len(model.network.graph)
    assert run.runs == 1


def test_a_second_run_starts_with_a_full_step(unet):
    with applied(unet, DeepCache(every=100)) as run:
        first = made(unet)
        assert torch.equal(made(unet), first)
    assert run.runs == 2


def test_batches_of_one_run_do_not_share_memory(unet):
    with applied(unet, DeepCache()):
        whole = made(unet)
        parts = made(unet, batch=3)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-4)


def test_multiply_accumulates_are_those_of_the_flop_counter(unet):
    x = noise(2)
    with torch.no_grad():
        full = counted_macs(lambda: unet.denoise(x, 300.0))
        with applied(unet, DeepCache(every=2), counter=MacCounter()) as run:
            unet.denoise(x, 300.0, None, at(0))
            after_full = run.macs
            unet.denoise(x, 300.0, None, at(1))
        assert after_full == full
        cached = run.macs - after_full
        macs = block_macs(lambda **asked: unet.network(x, unet.told(300.0, 2), **asked), unet.network.graph)
    assert macs.total == pytest.approx(full, rel=1e-9)
    assert run.timeline(macs).spent(1) * full == pytest.approx(cached, rel=0.01)
    assert f"of {2 * full / 1e9:.4g} GMACs" in run.timeline(macs).table()


def test_a_timeline_is_drawn(unet, tmp_path):
    DeepCache().preview(unet.network, 10).draw(tmp_path / "timeline.png")
    assert (tmp_path / "timeline.png").stat().st_size > 5000


def test_taps_of_the_caller_work_under_a_plan(unet):
    x = noise(2)
    with torch.no_grad():
        wanted = unet.evaluate(x, 300.0, None, Call(taps=("mid",))).features["mid"]
        with applied(unet, DeepCache()):
            unet.denoise(x, 500.0, None, at(0))
            found = unet.evaluate(x, 300.0, None, Call(step=1, steps=10, taps=("mid",))).features["mid"]
    torch.testing.assert_close(found, wanted)


def test_plans_on_different_things_go_together(unet):
    with applied(unet, DeepCache()) as cache, applied(unet, TokenMerging(ratio=0.3)) as merging:
        both = made(unet)
    assert cache.runs == merging.runs == 1
    with applied(unet, TokenMerging(ratio=0.3)), applied(unet, DeepCache()):
        assert torch.equal(made(unet), both)
    with applied(unet, DeepCache()):
        assert not torch.equal(made(unet), both)


@pytest.mark.parametrize(
    ("first", "second"),
    [(DeepCache(), EncoderReuse()), (DeepCache(), DeepCache(every=5))],
    ids=["two kinds", "the same kind"],
)
def test_plans_on_the_same_thing_are_refused(unet, first, second):
    plain = made(unet)
    with applied(unet, first), pytest.raises(UsageError, match="cannot be applied together"), applied(unet, second):
        pass
    assert torch.equal(made(unet), plain)


def test_regions_and_caches_are_refused_together(dit):
    with applied(dit, RegionAdaptive()), pytest.raises(UsageError, match="blocks"), applied(dit, Taylor()):
        pass


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (DeepCache(branch=6), "branches are 0 to 5"),
        (ResidualReuse(), "use plan deepcache"),
        (FirstBlockCache(), "use plan deepcache"),
        (RegionAdaptive(), "no tokens that could run alone"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_plan_for_another_network_is_refused_before_any_work(unet, plan, words):
    with pytest.raises(UsageError, match=words), applied(unet, plan):
        pass
    assert unet.planned is None


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (DeepCache(), "no decoder that reads skips"),
        (EncoderReuse(), "no decoder that reads any"),
        (ResidualReuse(first=3, last=9), "0 to 3"),
        (FirstBlockCache(front=3, back=1), "leaves none"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_plan_for_a_unet_is_refused_by_a_transformer(dit, plan, words):
    with pytest.raises(UsageError, match=words), applied(dit, plan):
        pass


def test_another_batch_size_within_a_run_is_refused(unet):
    x = noise(3)
    with torch.no_grad(), applied(unet, DeepCache(every=5)):
        unet.denoise(x, 300.0, None, at(0))
        with pytest.raises(UsageError, match=r"keeps features of inputs of \(3, 3, 8, 8\), but at step 1"):
            unet.denoise(x[:2], 250.0, None, at(1))


def test_derivatives_through_a_plan_are_refused(unet):
    x = noise(1).requires_grad_()
    with applied(unet, DeepCache()), pytest.raises(UsageError, match="derivatives"):
        unet.denoise(x, 300.0)
    with applied(unet, DeepCache()), pytest.raises(UsageError, match="derivatives"):
        torch.func.jvp(lambda x: unet.denoise(x, 300.0), (x.detach(),), (torch.ones_like(x),))


def test_outside_a_loop_every_call_computes_everything(unet):
    x = noise(2)
    with torch.no_grad():
        wanted = unet.denoise(x, 300.0)
        with applied(unet, DeepCache()):
            unet.denoise(x, 500.0)
            assert torch.equal(unet.denoise(x, 300.0), wanted)


def test_a_bare_network_of_ours_takes_no_plan(unet):
    with pytest.raises(UsageError, match="apply it to the Denoiser"), applied(unet.network, DeepCache()):
        pass


def test_a_compiled_network_takes_plans_on_blocks(unet):
    """Compiled with a backend that changes nothing: what counts is that graphs of several plans live side by side."""
    model = our_unet()
    with applied(model, DeepCache()):
        wanted = made(model, steps=4)
    model.network.compile(backend="eager")
    with applied(model, DeepCache()):
        assert torch.equal(made(model, steps=4), wanted)
    with pytest.raises(UsageError, match="compiled"), applied(model, TokenMerging()):
        pass
