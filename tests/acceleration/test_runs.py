"""Runs under plans: where they begin, what hooks and exceptions do to them, and that nothing is left behind."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from acceleration.tiny_models import (
    at,
    ddim_unet,
    drawn,
    left_over,
    made,
    noise,
    our_unet,
    randomised,
    stable_diffusion,
)
from suffuse.acceleration import DeepCache, EncoderReuse, MacCounter, NoPlan, RegionAdaptive, TokenMerging, applied
from suffuse.acceleration.plan import Ask, Moment
from suffuse.acceleration.region_adaptive import _RegionAdaptive
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.models.conditioner import ClassLabel
from suffuse.models.denoiser import Denoiser
from suffuse.networks.contract import Output
from suffuse.sampling import CFG, Adaptive


def _conditional() -> tuple[Denoiser, Conditions]:
    plain = our_unet()
    conditioner = ClassLabel(classes=4).build(plain.network.cond_width)
    randomised(conditioner, std=0.3)
    model = Denoiser(plain.network, path=plain.path, prediction=plain.prediction, conditioner=conditioner)
    return model, Conditions.of(label=torch.arange(4))


def test_a_run_of_other_streams_begins_a_run():
    model, cond = _conditional()
    guided = {"cond": cond, "guidance": CFG(scale=3.0, above=0.5), "steps": 20}
    with applied(model, EncoderReuse()):
        alone = made(model, **guided)
    with applied(model, EncoderReuse()) as run:
        made(model, cond=cond, steps=10)
        assert torch.equal(made(model, **guided), alone)
    assert run.runs == 2


def test_a_run_after_one_that_broke_off_starts_afresh(unet):
    with applied(unet, DeepCache(every=20)):
        alone = made(unet, steps=15)
    with applied(unet, DeepCache(every=20)), torch.no_grad():
        for step in range(3):
            unet.denoise(noise(4), 900.0 - step, None, at(step))
        assert torch.equal(made(unet, steps=15), alone)


@pytest.mark.parametrize("target", ["ours", "theirs"])
def test_contexts_may_be_left_in_any_order(target):
    model = our_unet() if target == "ours" else stable_diffusion()
    draw = made if target == "ours" else drawn
    plain = draw(model)
    first, second = applied(model, DeepCache()), applied(model, TokenMerging(ratio=0.3))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    draw(model)
    second.__exit__(None, None, None)
    assert torch.equal(draw(model), plain)
    if target == "ours":
        assert model.planned is None
    else:
        assert left_over(model.unet) == []
        assert "set_timesteps" not in vars(model.scheduler)


def test_image_to_image_starts_late_in_its_times():
    """The pipeline asks from the fifth of ten times on, as image-to-image does."""
    pipe = stable_diffusion()
    unet, scheduler = pipe.unet, pipe.scheduler
    generator = torch.Generator().manual_seed(0)
    start, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 16, generator=generator)

    def draw() -> torch.Tensor:
        scheduler.set_timesteps(10)
        x = start
        with torch.no_grad():
            for t in scheduler.timesteps[4:]:
                x = scheduler.step(unet(x, t, encoder_hidden_states=text).sample, t, x).prev_sample
        return x

    plain = draw()
    with applied(pipe, EncoderReuse(every=1, parallel=True)):
        torch.testing.assert_close(draw(), plain, rtol=1e-4, atol=1e-4)
    with applied(pipe, EncoderReuse(every=3)) as run:
        apart = draw()
    assert run.timeline().steps == 6
    with applied(pipe, EncoderReuse(every=3, parallel=True)):
        torch.testing.assert_close(draw(), apart, rtol=1e-4, atol=1e-4)


def test_offloading_that_is_renewed_after_every_run_keeps_the_plan():
    hooks = pytest.importorskip("accelerate.hooks")
    pipe = ddim_unet()
    hooks.add_hook_to_module(pipe.unet, hooks.ModelHook())
    plain = drawn(pipe)
    with applied(pipe, DeepCache()) as run:
        first = drawn(pipe)
        hooks.remove_hook_from_module(pipe.unet)
        hooks.add_hook_to_module(pipe.unet, hooks.ModelHook())
        assert torch.equal(drawn(pipe), first)
        assert run.runs == 2
    assert torch.equal(drawn(pipe), plain)
    hooks.remove_hook_from_module(pipe.unet)
    assert torch.equal(drawn(pipe), plain)
    assert left_over(pipe.unet) in ([], [""])  # accelerate puts the class's own forward into the instance


def test_offloading_that_begins_inside_the_context_outlives_it():
    hooks = pytest.importorskip("accelerate.hooks")
    pipe = ddim_unet()
    plain = drawn(pipe)
    with applied(pipe, DeepCache()):
        hooks.add_hook_to_module(pipe.unet, hooks.ModelHook())
    assert torch.equal(drawn(pipe), plain)
    hooks.remove_hook_from_module(pipe.unet)
    assert torch.equal(drawn(pipe), plain)


def test_features_that_are_changed_in_place_are_not_the_kept_ones():
    """FreeU scales half of the channels of what enters the decoder, in place."""
    pipe = stable_diffusion()
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    x, text = noise(2)[:, :1].expand(-1, 4, -1, -1), torch.zeros(2, 5, 16)
    with torch.no_grad(), applied(pipe.unet, EncoderReuse(every=20)):
        found = [pipe.unet(x, 500, encoder_hidden_states=text).sample for _ in range(4)]
    assert all(torch.equal(other, found[0]) for other in found)


def test_adapters_inside_of_levels_are_refused():
    pipe = stable_diffusion()
    x, text = torch.zeros(1, 4, 8, 8), torch.zeros(1, 5, 16)
    inside = [torch.zeros(1, 16, 8, 8)]
    with torch.no_grad(), applied(pipe.unet, DeepCache()), pytest.raises(UsageError, match="T2I adapters"):
        pipe.unet(x, 500, encoder_hidden_states=text, down_intrablock_additional_residuals=inside)


def test_training_mode_comes_back():
    unet = ddim_unet().unet.train()
    with applied(unet, DeepCache()):
        pass
    assert all(module.training for module in unet.modules())


def test_copies_and_files_know_nothing_of_plans(unet):
    with applied(unet, DeepCache()):
        assert copy.deepcopy(unet).planned is None
    pipe = ddim_unet()
    with applied(pipe, DeepCache()):
        with pytest.raises(UsageError, match="copied"):
            copy.deepcopy(pipe.unet)
        with pytest.raises(UsageError, match="saved"):
            torch.save(pipe.unet, io.BytesIO())
        with pytest.raises(UsageError, match="copied"):
            copy.deepcopy(pipe.scheduler)


def test_derivatives_in_weights_are_refused():
    unet = ddim_unet().unet.requires_grad_()
    with applied(unet, DeepCache()), pytest.raises(UsageError, match="no_grad"):
        unet(noise(1), 500)
    with applied(unet, NoPlan()):
        assert unet(noise(1), 500).sample.requires_grad


def test_a_counter_inside_another_plan_counts_what_runs(unet):
    with applied(unet, DeepCache(every=4), counter=MacCounter()) as alone:
        made(unet, steps=8)
    with applied(unet, DeepCache(every=4)), applied(unet, NoPlan(), counter=MacCounter()) as inside:
        made(unet, steps=8)
    assert inside.macs == pytest.approx(alone.macs)
    counter = MacCounter()
    with applied(unet, TokenMerging(), counter=counter) as merged:
        made(unet, steps=2)
    with applied(unet, NoPlan(), counter=counter) as whole:
        made(unet, steps=2)
    assert merged.macs < whole.macs


def test_decoders_at_once_go_through_what_stands_inside(unet):
    orders = []
    for parallel in (False, True):
        with applied(unet, TokenMerging(ratio=0.3)), applied(unet, EncoderReuse(parallel=parallel)):
            orders.append(made(unet))
    # Which tokens stay goes by the step, which decoders at once share.
    assert not torch.equal(*orders)
    with applied(unet, EncoderReuse(parallel=True)):
        assert not torch.equal(made(unet), orders[1])


def test_regions_look_at_samples_and_not_at_what_stands_beside_them():
    policy = _RegionAdaptive(RegionAdaptive(ratio=0.5, start=1, reset_every=None), patch=2)
    asked = []

    def evaluate(*, taps=(), given=None, tokens=None):
        if tokens is not None:
            tokens.memory.recovered("output", torch.zeros(2, 16 if tokens.index is None else 8, 1), tokens.index)
            asked.append(tokens.index)
        return Output(torch.zeros(2))

    samples, still = [noise(2), noise(2, seed=2)], noise(2, seed=3)
    for step, x in enumerate(samples):
        moment = Moment(step, 2, torch.cat([x, still], dim=1), float(step), sample=lambda x=x: x)
        policy(Ask(evaluate, {"output": ()}), moment)
    alone = _RegionAdaptive(RegionAdaptive(ratio=0.5), patch=2)._chosen(samples[1] - samples[0], 1)
    assert torch.equal(asked[-1], alone)


def test_pipelines_without_a_middle():
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng(devices=()):
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            mid_block_type=None,
            cross_attention_dim=16,
            norm_num_groups=4,
        )
    x, text = noise(1)[:, :1].expand(-1, 4, -1, -1), torch.zeros(1, 5, 16)
    with torch.no_grad():
        plain = unet(x, 500, encoder_hidden_states=text).sample
        with applied(unet, DeepCache(every=2), steps=2):
            for _ in range(2):
                assert torch.equal(unet(x, 500, encoder_hidden_states=text).sample, plain)


def test_inner_contexts_agree_on_streams():
    unet = ddim_unet().unet
    mismatch = pytest.raises(UsageError, match="say the same in both")
    with applied(unet, DeepCache(), streams=2), mismatch, applied(unet, TokenMerging(), streams=3):
        pass
    assert left_over(unet) == []


def test_two_samplings_at_once_are_refused(unet):
    with applied(unet, DeepCache(every=3)), torch.no_grad():
        first, second = {}, {}
        for step in range(2):
            unet.denoise(noise(4), 900.0 - step, None, at(step).replace(memory=first))
        unet.denoise(noise(4), 900.0, None, at(0).replace(memory=second))
        with pytest.raises(UsageError, match="two samplings run at once under one plan"):
            unet.denoise(noise(4), 898.0, None, at(2).replace(memory=first))


def test_a_solver_that_tries_steps_again_is_refused(unet):
    with applied(unet, DeepCache(every=3)), pytest.raises(UsageError, match="tries a step again, such as 'adaptive'"):
        made(unet, solver=Adaptive())
