"""Plans of runs: kept in presets, searched within a cost, and brought to pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from suffuse.acceleration import DeepCache, NoPlan
from suffuse.base.errors import UsageError
from suffuse.data import Dataset
from suffuse.metrics import Pixels
from suffuse.sampling import DDIM, Uniform
from suffuse.tasks.generate import generate
from suffuse.tasks.judge import ImageJudge
from suffuse.tasks.presets import Preset, save_preset
from suffuse.tasks.runs import OpenRun, Wanted, settle
from suffuse.tasks.tune_solvers import _planned, cost_of, tune_solver
from suffuse.training.recipe_files import load_recipe

MakeRun = Callable[..., OpenRun]
MakePictures = Callable[..., Dataset]
SHAPE = (3, 8, 8)


def test_a_plan_is_asked_for_by_kind_or_by_fields(make_run: MakeRun) -> None:
    run = make_run()
    assert settle(run, Wanted(plan="deepcache")).plan == DeepCache()
    assert settle(run, Wanted(plan={"kind": "deepcache", "every": 2})).plan == DeepCache(every=2)
    assert settle(run, Wanted()).plan == NoPlan()
    with pytest.raises(UsageError, match="branches are 0 to"):
        settle(run, Wanted(plan={"kind": "deepcache", "branch": 40}))
    with pytest.raises(UsageError, match="refreshes at step 9, but there are only 3 steps"):
        settle(run, Wanted(plan={"kind": "deepcache", "refresh": [0, 9]}, steps=3))


def test_steps_that_nobody_can_count_take_no_plan(make_run: MakeRun) -> None:
    with pytest.raises(UsageError, match="adaptive"):
        settle(make_run(), Wanted(solver="adaptive", plan="deepcache"))


def test_a_plan_changes_what_is_generated_and_not_the_model(make_run: MakeRun) -> None:
    run = make_run()
    plain = settle(run, Wanted(steps=6))
    before = generate(run, 4, plain).x
    planned = generate(run, 4, settle(run, Wanted(steps=6, plan="deepcache"))).x
    assert not torch.equal(planned, before)
    assert torch.equal(generate(run, 4, plain).x, before)
    assert run.model.planned is None


def test_under_a_plan_more_steps_cost_no_more(make_run: MakeRun) -> None:
    run = make_run()
    way = settle(run, Wanted(nfe=4))
    found = _planned(run, way, 4)
    assert found
    for longer in found:
        assert longer.grid.steps > way.grid.steps
        assert cost_of(longer, run) > 4
        share = longer.plan.describe(run.model, longer.grid.steps).total
        assert longer.grid.steps * share <= 4
    # As many as fit: one more step would cost more.
    widest = found[0]
    more = widest.replace(grid=widest.grid.replace(steps=widest.grid.steps + 1))
    assert more.grid.steps * more.plan.describe(run.model, more.grid.steps).total > 4


def test_plans_are_searched_with_the_solver_and_kept_in_the_preset(
    make_run: MakeRun, make_pictures: MakePictures
) -> None:
    run = make_run()
    judge = ImageJudge(make_pictures(), Pixels(SHAPE), count=100)
    plain = tune_solver(run, judge, 4, name="a", samples=12)
    planned = tune_solver(run, judge, 4, name="b", plans=True, samples=12)
    assert planned.preset.found["tried"] > plain.preset.found["tried"]
    assert any("deepcache" in way for way, _ in planned.tried) or planned.preset.sampling.plan == NoPlan()
    save_preset(run.folder, planned.preset)
    assert settle(run, Wanted(preset="b")).plan == planned.preset.sampling.plan


def test_a_pipeline_takes_a_preset_and_gives_it_back(make_run: MakeRun, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from suffuse.tasks.pipelines import preset_applied

    run = make_run()
    sampling = run.sampling.replace(solver=DDIM(), grid=Uniform(steps=5), plan=DeepCache(every=2))
    save_preset(run.folder, Preset("fast", sampling, {}))
    with torch.random.fork_rng(devices=()):
        unet = diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
        )
    pipe = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    scheduler = pipe.scheduler

    def drawn(steps: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        made = pipe(batch_size=1, generator=generator, num_inference_steps=steps, output_type="np")
        return torch.from_numpy(made.images)

    before = drawn(5)
    with preset_applied(pipe, run.folder, "fast") as preset:
        assert type(pipe.scheduler).__name__ == "SolverScheduler"
        assert not torch.equal(drawn(preset.sampling.grid.steps), before)
    assert pipe.scheduler is scheduler
    assert torch.equal(drawn(5), before)
    with pytest.raises(UsageError, match="fast"), preset_applied(pipe, run.folder, "fats"):
        pass


def test_a_recipe_whose_plan_does_not_fit_its_network_is_refused_before_training() -> None:
    recipe = load_recipe("digits-edm", ("sampling.plan=region_adaptive",))
    with pytest.raises(UsageError, match="no tokens that could run alone"):
        recipe.resolve(recipe.data.load())
    fits = load_recipe("digits-edm", ("sampling.plan={kind: deepcache, every: 2}",))
    assert fits.resolve(fits.data.load()).recipe.sampling.plan == DeepCache(every=2)
