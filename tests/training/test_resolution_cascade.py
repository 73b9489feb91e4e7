"""Cascades of resolution: tiny stages, the last of which holds the first and samples by itself."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.data import Trusses
from suffuse.data.images import Images
from suffuse.models.conditioner import ClassLabel
from suffuse.models.low_resolution import LowResolution
from suffuse.models.picture import Picture
from suffuse.sampling import sample
from suffuse.tasks.cascade import _brought_to
from suffuse.tasks.generate import Asked, conditions_for, generate
from suffuse.tasks.runs import OpenRun, open_run
from suffuse.training.recipe_files import load_recipe
from suffuse.training.run import train
from suffuse.training.stages import load_stages, train_stages

NETWORK = (
    "{kind: unet, channels: 8, multipliers: [1, 1], blocks: 1, attention_levels: [1], groups: 2, zero_init: false}"
)
SMALL = (
    "steps=3",
    "batch=4",
    "device=cpu",
    "training.checkpoint_every=100",
    "training.ema=[50]",
    "data.count=40",
    f"network={NETWORK}",
    "sampling.grid.steps=2",
    "data.size=16",
    "stages.small.data.size=8",
)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    folder = tmp_path_factory.mktemp("cascade")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        train_stages(load_stages("shapes-cascade", [*SMALL, f"out={folder / 'run'}"]), "shapes-cascade")
    return open_run(folder / "run", device="cpu")


def test_the_folder_of_the_last_stage_is_the_whole_cascade(cascade: OpenRun, tmp_path: Path) -> None:
    assert cascade.config.conditioner.draws_from is not None
    assert cascade.config.conditioner.draws_from.startswith("parts/")
    first = cascade.first
    assert first is not None
    stage = open_run(cascade.folder / "stages" / "small", device="cpu")
    for name, weight in stage.model.state_dict().items():
        assert torch.equal(first.model.state_dict()[name], weight), name
    assert first.sampling == stage.sampling
    shutil.copytree(cascade.folder, tmp_path / "moved", ignore=shutil.ignore_patterns("stages"))
    asked = Asked(prompts=("a red circle",))
    made = [
        generate(run, 3, run.sampling, asked=asked, seed=1)
        for run in (cascade, open_run(tmp_path / "moved", device="cpu"))
    ]
    assert made[0].x.shape == (3, 3, 16, 16)
    assert torch.equal(made[0].x, made[1].x)
    shutil.rmtree(tmp_path / "moved" / "parts")
    with pytest.raises(UsageError, match="is missing: the model whose samples this one enlarges; bring it back"):
        open_run(tmp_path / "moved", device="cpu")


def test_an_image_is_the_same_in_any_batch_of_the_cascade(cascade: OpenRun) -> None:
    many = generate(cascade, 4, cascade.sampling, seed=2)
    alone = generate(cascade, 1, cascade.sampling, seed=2, first=2)
    torch.testing.assert_close(many.x[2:3], alone.x, atol=1e-4, rtol=1e-4)
    assert many.captions[2:3] == alone.captions
    assert not torch.allclose(generate(cascade, 4, cascade.sampling, seed=3).x, many.x, atol=1e-3)


def test_what_is_enlarged_is_what_the_first_stage_draws(cascade: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Conditions] = []
    hook = cascade.model.conditioner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    generate(cascade, 2, cascade.sampling, seed=1, asked=Asked(prompts=("a blue square",)))
    hook.remove()
    small = seen[0].values["low_res"]
    assert small.shape == (2, 3, 8, 8)
    assert small.abs().max() <= 1
    assert len(seen) == 1, "embedded once for all steps"
    assert seen[0].values["caption"].shape[0] == 2
    first = cascade.first
    assert first is not None
    # Other noise than that of the same seed in the last stage.
    same = generate(first, 2, first.sampling, seed=1, asked=Asked(prompts=("a blue square",))).x
    assert not torch.allclose(same.clamp(-1, 1), small, atol=1e-2)


def test_captions_go_to_both_stages_and_small_images_may_be_given(cascade: OpenRun) -> None:
    red, blue = (
        generate(cascade, 2, cascade.sampling, asked=Asked(prompts=(f"a {c} circle",))).x for c in ("red", "blue")
    )
    assert not torch.allclose(red, blue, atol=1e-4)
    drawn, _ = conditions_for(cascade, 2, Asked(prompts=("a red circle",)))
    how = cascade.sampling
    for given in (Conditions.of(low_res=torch.zeros(2, 3, 8, 8)), drawn):
        plain = sample(
            cascade.model, 2, solver=how.solver, grid=how.grid, guidance=how.guidance, cond=given, batch=how.batch
        )
        assert torch.equal(generate(cascade, 2, how, cond=given).x, plain.x), "with the small image it is no cascade"
    assert torch.equal(generate(cascade, 2, how, cond=drawn).x, red), "and by itself it draws just that"
    with pytest.raises(UsageError, match="needs a class-conditional model"):
        generate(cascade, 1, cascade.sampling, asked=Asked(label="3"))


def test_classes_go_to_both_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    told = [
        "stages.small.conditioner={kind: class_label, classes: 18}",
        "stages.large.conditioner.reader={kind: class_label, classes: 18}",
    ]
    train_stages(load_stages("shapes-cascade", [*SMALL, *told, f"out={tmp_path / 'run'}"]), "x")
    run = open_run(tmp_path / "run", device="cpu")
    made = generate(run, 3, run.sampling, first=17)
    assert made.labels is not None
    assert made.labels.tolist() == [17, 0, 1]
    named = generate(run, 2, run.sampling, asked=Asked(label=run.config.classes[4]))
    assert named.labels is not None
    assert named.labels.tolist() == [4, 4]
    wrong = [*SMALL, f"out={tmp_path / 'wrong'}", "data.size=32", *told]
    with pytest.raises(UsageError, match=r"makes images of \(3, 8, 8\), but images of \(3, 32, 32\) are enlarged by 2"):
        train_stages(load_stages("shapes-cascade", [*wrong]), "x")


def test_a_first_stage_that_is_not_there_is_named(tmp_path: Path) -> None:
    recipe = load_recipe("digits-sr-etsdm", ["steps=3", "batch=4", "device=cpu", f"out={tmp_path / 'x'}"])
    recipe = recipe.replace(conditioner=recipe.conditioner.replace(run="runs/nothing"))
    with pytest.raises(UsageError, match=r"conditioner\.run 'runs/nothing' cannot be opened .*train a model of small"):
        train(recipe, "x")


@pytest.fixture(scope="module")
def designs(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    folder = tmp_path_factory.mktemp("designs")
    small = [change.replace("data.size=8", "data.size=4") for change in SMALL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        train_stages(load_stages("trusses-ccdm", [*small, f"out={folder / 'run'}"]), "trusses-ccdm")
    return open_run(folder / "run", device="cpu")


def test_both_stages_of_inverse_design_are_shown_what_is_asked(designs: OpenRun) -> None:
    """In turn those of its data: also of others, when another seed of them stands in the recipe."""
    assert designs.first is not None
    assert designs.recipe is not None
    own = designs.recipe.data
    assert isinstance(own, Trusses)
    cond, _ = conditions_for(designs, 3, seed=1)
    assert cond is not None
    assert torch.equal(cond.values["picture"], own.load().batch(torch.arange(3)).cond.values["picture"])
    assert cond.values["low_res"].shape == (3, 1, 4, 4)
    other = own.replace(seed=9)
    moved = replace(designs, recipe=designs.recipe.replace(data=other))
    told, _ = conditions_for(moved, 3, seed=1)
    assert told is not None
    assert not torch.equal(told.values["low_res"], cond.values["low_res"]), "the first stage is shown the others too"
    asked = Asked(pictures=other.load().batch(torch.arange(3)).cond.values["picture"])
    again, _ = conditions_for(designs, 3, asked, seed=1)
    assert again is not None
    assert torch.equal(again.values["picture"], told.values["picture"])
    assert torch.equal(again.values["low_res"], told.values["low_res"])


def test_a_first_stage_sees_the_picture_made_small(designs: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    assert designs.first is not None
    seen = []
    check = type(designs.first.model.conditioner).check

    def spy(self: torch.nn.Module, cond: Conditions) -> None:
        seen.append(cond.values["picture"])
        check(self, cond)  # type: ignore[arg-type]  # of this class

    monkeypatch.setattr(type(designs.first.model.conditioner), "check", spy)
    conditions_for(designs, 2, seed=0)
    small = Trusses(size=4, fine=4, count=2).load().batch(torch.arange(2)).cond.values["picture"]
    torch.testing.assert_close(seen[0], small, atol=0.005, rtol=0)


def test_a_map_is_made_small_without_mixing_its_colours(designs: OpenRun) -> None:
    first = designs.first
    assert first is not None
    shown = torch.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8)
    mean = _brought_to(first, shown)
    assert mean is not None
    assert mean.shape == (2, 3, 4, 4)
    assert mean[0, 0, 0, 0] == (0 + 1 + 8 + 9) / 4
    assert first.recipe is not None
    maps = Images(path=Path("maps"), size=4, condition_key="map", condition_resize="nearest")
    kept = _brought_to(replace(first, recipe=first.recipe.replace(data=maps)), shown)
    assert kept is not None
    assert torch.equal(kept, shown[:, :, 1::2, 1::2])


def test_pictures_are_refused_where_none_are_shown(cascade: OpenRun, designs: OpenRun) -> None:
    with pytest.raises(UsageError, match="there are 2 pictures for 3 samples; give one for each"):
        conditions_for(designs, 3, Asked(pictures=torch.zeros(2, 3, 16, 16)))
    with pytest.raises(UsageError, match="this model is shown no pictures beside its samples"):
        conditions_for(cascade, 3, Asked(pictures=torch.zeros(3, 3, 16, 16)))
    assert designs.first is not None
    with pytest.raises(UsageError, match="there are 2 pictures for 1 samples"):
        conditions_for(designs.first, 1, Asked(pictures=torch.zeros(2, 3, 4, 4)))


def test_the_picture_beside_has_no_reader_of_its_own() -> None:
    with pytest.raises(UsageError, match=r"has a reader of its own; give conditioner\.reader"):
        LowResolution(factor=2).replace(beside=Picture(reader=ClassLabel(classes=2)))
    plain, both = LowResolution(factor=2), LowResolution(factor=2, beside=Picture(picture_shape=(3, 8, 8)))
    assert (plain.companion, both.companion) == (None, "picture")
    assert both.extra_channels((1, 8, 8)) == plain.extra_channels((1, 8, 8)) + 4
