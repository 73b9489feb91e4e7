"""Plans on networks and pipelines of diffusers: neutral, the same as elsewhere, restored, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from acceleration.tiny_models import (
    PIPELINES,
    STEPS,
    ddim_unet,
    dit,
    drawn,
    left_over,
    network_of,
    sd3,
    stable_diffusion,
)
from suffuse.acceleration import (
    DeepCache,
    EncoderReuse,
    FirstBlockCache,
    NoPlan,
    PlanPart,
    RegionAdaptive,
    ResidualReuse,
    Taylor,
    TeaCache,
    TokenMerging,
    applied,
)
from suffuse.base.errors import UsageError

pytest.importorskip("diffusers")
pytest.importorskip("transformers")  # without it the pipelines with text cannot be imported

UNETS, TRANSFORMERS = ("unet", "stable_diffusion"), ("dit", "sd3")
FOR_UNETS: tuple[PlanPart, ...] = (
    DeepCache(),
    DeepCache(every=4, branch=2, schedule="power", centre=4, power=1.4),
    EncoderReuse(),
    EncoderReuse(parallel=True),
)
FOR_TRANSFORMERS: tuple[PlanPart, ...] = (
    ResidualReuse(),
    Taylor(),
    FirstBlockCache(),
    TeaCache(),
    RegionAdaptive(),
    RegionAdaptive(published=True, high=0.3, starvation=1.0),
)


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    return {name: make() for name, make in PIPELINES.items()}


def _cases() -> list[Any]:
    return [
        pytest.param(name, plan, id=f"{name}-{plan.kind}")
        for names, plans in ((UNETS, FOR_UNETS), (TRANSFORMERS, FOR_TRANSFORMERS))
        for name in names
        for plan in plans
    ]


@pytest.mark.parametrize(("name", "plan"), _cases())
def test_a_plan_works_on_a_pipeline_and_leaves_no_trace(pipes, name, plan):
    pipe = pipes[name]
    plain = drawn(pipe)
    with applied(pipe, plan) as run:
        planned = drawn(pipe)
        assert torch.equal(drawn(pipe), planned), "the second run starts afresh"
    timeline = run.timeline()
    assert timeline.steps == STEPS
    assert run.runs == 2
    if not isinstance(plan, FirstBlockCache | TeaCache):  # a random network may change too much at every step
        assert timeline.total < 1
        assert not torch.equal(planned, plain)
    assert left_over(network_of(pipe)) == []
    assert "set_timesteps" not in vars(pipe.scheduler)
    assert torch.equal(drawn(pipe), plain)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_plan_that_computes_everything_is_bit_equal_to_none(pipes, name):
    pipe = pipes[name]
    plain = drawn(pipe)
    neutral = (NoPlan(), DeepCache(every=1), EncoderReuse(every=1)) if name in UNETS else (NoPlan(), Taylor(every=1))
    for plan in (*neutral, *((RegionAdaptive(ratio=1.0),) if name in TRANSFORMERS else ())):
        with applied(pipe, plan):
            assert torch.equal(drawn(pipe), plain)


@pytest.mark.parametrize("name", UNETS)
def test_parallel_decoders_equal_those_one_after_the_other(pipes, name):
    pipe = pipes[name]
    with applied(pipe, EncoderReuse()):
        apart = drawn(pipe)
    with applied(pipe, EncoderReuse(parallel=True)):
        torch.testing.assert_close(drawn(pipe), apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PIPELINES)
def test_after_an_exception_in_the_network_all_is_as_it_was(pipes, name):
    pipe = pipes[name]
    network, plain = network_of(pipe), drawn(pipe)
    block = network.up_blocks[-1].resnets[-1] if name in UNETS else network.transformer_blocks[-1]
    calls: list[int] = []

    def fails(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("on purpose")

    hook = block.register_forward_pre_hook(lambda *arguments: fails(*arguments))
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        applied(pipe, DeepCache() if name in UNETS else Taylor(every=1)),
    ):
        drawn(pipe)
    hook.remove()
    assert left_over(network) == []
    assert torch.equal(drawn(pipe), plain)


@pytest.mark.parametrize(("interval", "branch"), [(1, 0), (2, 0), (3, 0), (3, 1), (5, 4)])
def test_deepcache_equals_the_package(interval, branch):
    package = pytest.importorskip("DeepCache")
    pipe = stable_diffusion()
    with applied(pipe, DeepCache(every=interval, branch=branch)):
        ours = drawn(pipe, guidance_scale=5.0)
    helper = package.DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    theirs = drawn(pipe, guidance_scale=5.0)
    helper.disable()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_network_that_was_already_patched_is_refused():
    package = pytest.importorskip("DeepCache")
    pipe = stable_diffusion()
    helper = package.DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=3)
    helper.enable()
    with pytest.raises(UsageError, match="already replaced by something else"), applied(pipe, DeepCache()):
        pass
    helper.disable()
    with applied(pipe, DeepCache()) as run:
        drawn(pipe)
    assert run.timeline().total < 1


@pytest.mark.parametrize("scheduler", ["DPMSolverMultistepScheduler", "PNDMScheduler", "HeunDiscreteScheduler"])
def test_schedulers_with_their_own_number_of_calls(scheduler):
    import diffusers

    pipe = stable_diffusion(getattr(diffusers, scheduler)(steps_offset=1))
    plain = drawn(pipe)
    with applied(pipe, DeepCache(every=1)):
        assert torch.equal(drawn(pipe), plain)
    with applied(pipe, DeepCache(every=2)) as run:
        drawn(pipe)
    assert run.timeline().steps == len(pipe.scheduler.timesteps)


def test_a_bare_network_tells_runs_by_its_times():
    unet = ddim_unet().unet
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), applied(unet, DeepCache(every=2)) as run:
        for _ in range(2):
            for t in (900, 600, 300, 0):
                unet(x, t)
    assert run.runs == 2
    assert [len(asked[0].computed) == len(run.network.graph) for asked in run.timeline().asked] == [True, False] * 2


def test_a_bare_network_needs_the_steps_where_the_schedule_does():
    unet = ddim_unet().unet
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plan = DeepCache(every=2, schedule="power", power=1.4)
    with torch.no_grad(), applied(unet, plan), pytest.raises(UsageError, match="give steps"):
        unet(x, 900)
    with torch.no_grad(), applied(unet, plan, steps=4) as run:
        for t in (900, 600, 300, 0):
            answer = unet(x, t)
    assert type(answer).__name__ == "UNet2DOutput"
    assert run.timeline().steps == 4


def test_streams_that_are_called_one_after_the_other():
    unet = ddim_unet().unet
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2))
    with torch.no_grad():
        with applied(unet, DeepCache(every=2), streams=2):
            apart = [[unet(value, t).sample for value in (x, y)] for t in (900, 600, 300)]
        with applied(unet, DeepCache(every=2)):
            together = [unet(torch.cat([x, y]), t).sample for t in (900, 600, 300)]
    for pair, both in zip(apart, together, strict=True):
        torch.testing.assert_close(torch.cat(pair), both, rtol=1e-5, atol=1e-5)


def test_more_calls_than_steps_are_noticed():
    pipe = ddim_unet()
    x = torch.zeros(1, 3, 8, 8)
    with torch.no_grad(), applied(pipe, DeepCache()):
        drawn(pipe)
        with pytest.raises(UsageError, match="say how many by `streams`"):
            pipe.unet(x, 0)
    assert left_over(pipe.unet) == []


def test_another_batch_within_a_run_is_refused():
    unet = ddim_unet().unet
    with torch.no_grad(), applied(unet, DeepCache()):
        unet(torch.zeros(2, 3, 8, 8), 900)
        with pytest.raises(UsageError, match="batch and resolution must stay"):
            unet(torch.zeros(1, 3, 8, 8), 600)


def test_plans_can_be_nested_on_a_pipeline():
    pipe = stable_diffusion()
    plain = drawn(pipe)
    with applied(pipe, DeepCache()) as cache, applied(pipe, TokenMerging(ratio=0.3)) as merging:
        drawn(pipe)
        assert cache.runs == merging.runs == 1
    refused = pytest.raises(UsageError, match="cannot be applied together")
    with applied(pipe, DeepCache()), refused, applied(pipe, EncoderReuse()):
        pass
    assert torch.equal(drawn(pipe), plain)


def test_several_pipelines_at_once():
    one, other = stable_diffusion(), dit()
    plain = drawn(one), drawn(other)
    with applied(one, DeepCache()) as first, applied(other, Taylor()) as second:
        drawn(one)
        drawn(other)
    assert first.timeline().total < 1
    assert second.timeline().total < 1
    assert torch.equal(drawn(one), plain[0])
    assert torch.equal(drawn(other), plain[1])


@pytest.mark.parametrize("options", [{}, {"qk_norm": "rms_norm", "dual": (0, 1)}], ids=["3", "3.5"])
def test_regions_of_sd3_at_the_same_input_and_time_are_exact(options):
    pipe = sd3(**options)
    model = pipe.transformer
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    text, pooled = torch.randn(2, 5, 16, generator=generator), torch.randn(2, 24, generator=generator)
    call = {"encoder_hidden_states": text, "pooled_projections": pooled, "timestep": torch.full((2,), 500.0)}
    with torch.no_grad(), applied(model, RegionAdaptive(start=1), steps=4) as run:
        full = model(x, **call).sample
        for _ in range(3):
            torch.testing.assert_close(model(x, **call).sample, full, rtol=1e-4, atol=1e-5)
    assert [asked[0].tokens for asked in run.timeline().asked] == [1.0, 0.5, 0.5, 0.5]


def test_fused_projections_are_refused_by_regions():
    pipe = dit()
    with torch.random.fork_rng(devices=()):
        pipe.transformer.transformer_blocks[0].attn1.fuse_projections(fuse=True)
    with pytest.raises(UsageError, match="unfuse_qkv_projections"), applied(pipe, RegionAdaptive()):
        drawn(pipe)


def test_adapters_inside_a_block_are_part_of_it():
    """What changes a layer's forward from within, as low-rank adapters do, is seen by full and by cached steps."""
    pipe = stable_diffusion()
    layer = pipe.unet.up_blocks[-1].attentions[-1].transformer_blocks[0].attn1.to_q
    plain = drawn(pipe)
    hook = layer.register_forward_hook(lambda module, inputs, output: output * 3)
    changed = drawn(pipe)
    with applied(pipe, DeepCache(every=1)):
        assert torch.equal(drawn(pipe), changed)
    with applied(pipe, DeepCache(every=3)):
        cached = drawn(pipe)
    hook.remove()
    with applied(pipe, DeepCache(every=3)):
        assert not torch.equal(drawn(pipe), cached)
    assert not torch.equal(changed, plain)


def test_what_a_plan_cannot_be_applied_to():
    with pytest.raises(UsageError, match="a pipeline with a component unet or transformer"):
        applied(object(), DeepCache()).__enter__()
    with pytest.raises(UsageError, match="diffusers network 'Identity'"):
        applied(torch.nn.Identity(), DeepCache()).__enter__()


def test_a_compiled_network_is_refused():
    pipe = ddim_unet()
    pipe.unet.compile(backend="eager")
    with pytest.raises(UsageError, match="is compiled"), applied(pipe, DeepCache()):
        pass
    pipe = ddim_unet()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    with pytest.raises(UsageError, match="compiled as a whole"), applied(pipe, DeepCache()):
        pass
    pipe = ddim_unet()
    pipe.unet.mid_block.compile(backend="eager")
    with pytest.raises(UsageError, match="is compiled"), applied(pipe, DeepCache()):
        drawn(pipe)
    assert left_over(pipe.unet) == []
