"""Our solvers in pipelines of diffusers: the same samples as by our own loop, saved and found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.randomness import Draws
from suffuse.interop.convert import to_suffuse
from suffuse.interop.solver_scheduler import SolverScheduler
from suffuse.models.pretrained import load_model
from suffuse.networks.part import seeded
from suffuse.sampling import DDIM, DDPM, PLMS, Heun, Karras, Midpoint, SASolver, SolverPart, Uniform, UniPC

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SMALL: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def raw(x: Tensor, t: float) -> Tensor:
    """An analytic network."""
    return (0.7 * x + torch.tensor(3 * t / 1000).sin()).tanh()


def driven(scheduler: Any, x: Tensor, **options: Any) -> Tensor:
    """What a pipeline does."""
    for t in scheduler.timesteps:
        scale = getattr(scheduler, "scale_model_input", lambda x, t: x)  # flow matching has none
        value = raw(scale(x, t), float(t))
        x = scheduler.step(value, t, x, **options).prev_sample
    return x


def start(shape: tuple[int, ...] = (1, 2, 2)) -> Tensor:
    return Draws(0, torch.arange(3)).normal("start", shape)


SOLVERS: list[SolverPart] = [DDIM(), Heun(), Midpoint(), UniPC(order=3), PLMS(), SASolver(tau=0.0)]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("grid", [Uniform(steps=6), Karras(steps=6)], ids=repr)
def test_a_pipeline_s_loop_gives_our_loop_s_samples(solver: SolverPart, grid: Any) -> None:
    scheduler = SolverScheduler.like(
        DDPMScheduler(**SCALED, prediction_type="v_prediction"), solver=solver.dump(), grid=grid.dump()
    )
    scheduler.set_timesteps(6)
    found = driven(scheduler, start())
    path, prediction = scheduler._path, scheduler._prediction
    times = grid.times(path)

    def denoise(x: Tensor, t: float, substep: int = 0, target: float | None = None) -> Any:
        from suffuse.sampling import Estimate

        level = path.level(t)
        skip, out = prediction.output(float(level.alpha), float(level.sigma), 0.5)
        return Estimate(skip * x + out * raw(x, t))

    x, state = start(), solver.init(start(), times, path)
    for i in range(6):
        x, state = solver.step(denoise, x, state, i, Draws(0, torch.arange(3)))
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)
    again = driven(scheduler, start())
    assert torch.equal(again, found), "a second run starts afresh"


def test_it_is_diffusers_own_where_that_has_the_solver() -> None:
    theirs = DPMSolverMultistepScheduler(**SCALED, timestep_spacing="trailing", lower_order_final=False)
    theirs.set_timesteps(12)
    ours = SolverScheduler.like(theirs, solver="dpmpp", grid={"kind": "uniform", "spacing": "trailing"})
    ours.set_timesteps(12)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    torch.testing.assert_close(driven(ours, start()), driven(theirs, start()), rtol=1e-4, atol=1e-4)


def test_on_the_flow_path_the_shift_is_kept() -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = SolverScheduler.like(theirs, solver={"kind": "euler", "variable": "time"})
    assert ours._grid.dump()["shift"] == 3.0
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(sigmas=[1.0, 0.7, 0.4, 0.2])
    assert ours.timesteps.tolist() == pytest.approx(theirs.timesteps.tolist(), rel=1e-5)
    torch.testing.assert_close(driven(ours, start()), driven(theirs, start()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_shift_that_depends_on_the_size_comes_with_mu(kind: str) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    ours = SolverScheduler.like(theirs, solver={"kind": "euler", "variable": "time"})
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=1.15)
    assert ours.timesteps.tolist() == pytest.approx(theirs.timesteps.tolist(), rel=1e-5)
    with pytest.raises(UsageError, match="shifted by the size of the image; give mu"):
        ours.set_timesteps(sigmas=[1.0, 0.5])
    with pytest.raises(UsageError, match="set_timesteps knows no custom; it is another scheduler's"):
        ours.set_timesteps(4, custom=1)
    chosen = SolverScheduler.like(theirs, solver="unipc", grid={"kind": "shifted", "shift": 3.0})
    chosen.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=1.15)
    assert chosen.timesteps.tolist() == pytest.approx([1000, 900, 750, 500]), "the user's grid, of as many steps"


def test_an_image_begins_where_its_strength_says() -> None:
    """As pipelines find it: `timesteps[t_start * order:]`, t_start steps being left out."""
    for solver in ("heun", "midpoint", "dpmpp"):
        scheduler = SolverScheduler.like(DDPMScheduler(timestep_spacing="trailing"), solver=solver)
        scheduler.set_timesteps(10)
        kept = scheduler.timesteps[7 * scheduler.order :]
        assert float(kept[0]) == pytest.approx(299, abs=1), solver
        x = start()
        for t in kept:
            x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
        assert x.isfinite().all()
    uneven = SolverScheduler.like(DDPMScheduler(timestep_spacing="trailing"), solver="plms")
    uneven.set_timesteps(10)
    with pytest.raises(UsageError, match="several numbers of evaluations"):
        uneven.step(start(), uneven.timesteps[-1], start())


def test_flow_under_a_name_of_the_other_family() -> None:
    from diffusers import UniPCMultistepScheduler

    theirs = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    ours = SolverScheduler.like(theirs)
    assert ours.config["flow"]
    assert ours._grid.dump()["shift"] == 3.0
    x, eps, t = start(), torch.ones_like(start()), torch.full((len(start()),), 250.0)
    assert torch.equal(ours.scale_noise(x, t, eps), 0.75 * x + 0.25 * eps)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**SCALED, "_class_name": "LCMScheduler"}, "distilled network, which gives endpoints"),
        ({**SCALED, "_class_name": "CogVideoXDDIMScheduler", "snr_shift_scale": 3.0}, "snr_shift_scale = 3.0"),
        ({**SCALED, "_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "'continuous'; only"),
        ({"_class_name": "IPNDMScheduler", "trained_betas": None}, "neither a table of betas nor the flow path"),
    ],
)
def test_what_only_looks_like_our_process_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SolverScheduler.like(config)


def test_a_learned_variance_is_left_aside() -> None:
    plain, doubled = (SolverScheduler.like(DDIMScheduler(**SCALED), solver="ddim") for _ in range(2))
    x = y = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for scheduler in (plain, doubled):
        scheduler.set_timesteps(3)
    for t in plain.timesteps:
        x = plain.step(raw(x, float(t)), t, x).prev_sample
        y = doubled.step(torch.cat([raw(y, float(t)), y], dim=1), t, y).prev_sample
    assert torch.equal(x, y)


def test_noise_comes_from_the_generator_and_is_drawn_once_a_step() -> None:
    for solver in (DDPM(), Heun(churn=4.0, churn_to=5.0)):
        scheduler = SolverScheduler.like(DDPMScheduler(**SCALED), solver=solver.dump(), grid=Karras().dump())
        ends = []
        for seed in (1, 1, 2):
            scheduler.set_timesteps(5)
            ends.append(driven(scheduler, start(), generator=torch.Generator().manual_seed(seed)))
        assert torch.equal(ends[0], ends[1])
        assert not torch.allclose(ends[0], ends[2])


def test_a_pipeline_samples_as_the_converted_run_does(tmp_path: Path) -> None:
    with seeded(0):
        pipe = DDIMPipeline(UNet2DModel(**SMALL), DDIMScheduler(clip_sample=False))
    pipe.save_pretrained(tmp_path / "pipe")
    to_suffuse(tmp_path / "pipe", tmp_path / "run")
    model = load_model(tmp_path / "run")
    scheduler = SolverScheduler.like(pipe.scheduler, solver="unipc", grid="karras")
    scheduler.set_timesteps(5)
    x = start((1, 8, 8)) * scheduler.init_noise_sigma
    state = UniPC().init(x, Karras(steps=5).times(model.path), model.path)
    ours = x
    with torch.no_grad():
        theirs = x
        for t in scheduler.timesteps:
            theirs = scheduler.step(pipe.unet(theirs, t).sample, t, theirs).prev_sample
        for i in range(5):
            ours, state = UniPC().step(
                lambda x, t, substep=0, target=None: _estimate(model, x, t), ours, state, i, Draws(0, torch.arange(3))
            )
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def _estimate(model: Any, x: Tensor, t: float) -> Any:
    from suffuse.sampling import Estimate

    return Estimate(model.denoise(x, t))


def test_image_to_image_starts_in_the_middle() -> None:
    scheduler = SolverScheduler.like(DDPMScheduler(**SCALED), solver={"kind": "dpm", "order": 2}, grid="log_snr")
    scheduler.set_timesteps(6)
    image, later = start() * 0.1, scheduler.timesteps[6:]  # after three steps of two evaluations
    x = scheduler.add_noise(image, start((1, 2, 2)), later[:1].expand(3))
    level = scheduler._path.level(float(later[0]))
    torch.testing.assert_close(x, level.alpha * image + level.sigma * start())
    for t in later:
        x = scheduler.step(raw(x, float(t)), t, x).prev_sample
    assert torch.isfinite(x).all()
    with pytest.raises(UsageError, match="is not one at which a step of the grid starts"):
        scheduler.step(x, 123.4, x)


def test_it_is_saved_with_a_pipeline_and_found_again(tmp_path: Path) -> None:
    with seeded(0):
        pipe = DDIMPipeline(UNet2DModel(**SMALL), DDIMScheduler(clip_sample=False))
    scheduler = SolverScheduler.like(pipe.scheduler, solver={"kind": "unipc", "order": 3}, grid="karras")
    scheduler.save_pretrained(tmp_path)
    again = SolverScheduler.from_pretrained(tmp_path)
    assert again._solver == UniPC(order=3)
    assert again._grid == parse(Karras, {})
    assert again._path == scheduler._path


@pytest.mark.parametrize(("pipeline", "theirs"), [(DDPMPipeline, DDPMScheduler), (DDIMPipeline, DDIMScheduler)])
def test_pipelines_run_with_it(pipeline: Any, theirs: Any, tmp_path: Path) -> None:
    with seeded(0):
        pipe = pipeline(UNet2DModel(**SMALL), theirs())
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = SolverScheduler.like(pipe.scheduler, solver="unipc", grid="karras")

    def images(pipe: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        return pipe(batch_size=2, num_inference_steps=5, generator=generator, output_type="np").images

    made = images(pipe)
    assert made.shape == (2, 8, 8, 1)
    if pipeline is DDPMPipeline:  # the other one makes its own scheduler of any that it is given
        pipe.save_pretrained(tmp_path)
        again = pipeline.from_pretrained(tmp_path)
        again.set_progress_bar_config(disable=True)
        assert isinstance(again.scheduler, SolverScheduler)
        assert (images(again) == made).all()


def test_settings_of_other_schedulers_are_refused_unless_neutral() -> None:
    scheduler = SolverScheduler.like(DDPMScheduler(**SCALED))
    scheduler.set_timesteps(2)
    t = scheduler.timesteps[0]
    scheduler.step(start(), t, start(), eta=0.0, use_clipped_model_output=None)
    with pytest.raises(UsageError, match=r"eta = 0\.5 is another scheduler's; set it in `solver`"):
        scheduler.step(start(), t, start(), eta=0.5)


def test_half_precision_networks_keep_a_float32_state() -> None:
    scheduler = SolverScheduler.like(DDPMScheduler(**SCALED), solver="dpmpp")
    scheduler.set_timesteps(4)
    x = start().half()
    for t in scheduler.timesteps:
        x = scheduler.step(raw(x.float(), float(t)).half(), t, x).prev_sample
        assert x.dtype is torch.float16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "unipcc"}, "did you mean 'unipc'"),
        ({"solver": "adaptive"}, "must know its evaluations beforehand"),
        ({"solver": "consistency"}, "cannot be driven by a pipeline"),
        ({"grid": "karas"}, "did you mean 'karras'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SolverScheduler.like(DDPMScheduler(**SCALED), **options)


def test_another_process_is_refused() -> None:
    from diffusers import EDMEulerScheduler

    with pytest.raises(UsageError, match="'EDMEulerScheduler' has neither a table of betas nor the flow path"):
        SolverScheduler.like(EDMEulerScheduler())
    assert SolverScheduler.like(EulerDiscreteScheduler(**SCALED)).config["beta_schedule"] == "scaled_linear"
