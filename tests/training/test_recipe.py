"""Recipes as parts: what the data decide, and values that are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from suffuse.base.errors import UsageError
from suffuse.data import Dataset, GaussianMixture
from suffuse.models.conditioner import ClassLabel, NoCondition
from suffuse.networks import MLP, UNet, count_parameters
from suffuse.objectives import Denoising
from suffuse.sampling import CFG, DDIM, DPS, Autoguidance, CFGPlusPlus, GuidancePart, Inpainting, SolverPart, UniPC
from suffuse.training.recipe import Recipe
from suffuse.training.run import check_recipe

Make = Callable[..., Recipe]


def pictures(side: int = 8, channels: int = 1, classes: int = 3) -> Dataset:
    labels = np.arange(6) % classes if classes else None
    names = [f"class {number}" for number in range(classes)]
    return Dataset.of("made", np.zeros((6, side, side, channels), np.uint8), labels=labels, classes=names)


AUTO = {"network": "auto", "conditioner": "auto"}


def test_auto_is_decided_by_the_data_and_said(tiny: Make) -> None:
    resolved = tiny(tree=AUTO).resolve(pictures(side=32, channels=3))
    network, conditioner = resolved.recipe.network, resolved.recipe.conditioner
    assert network == UNet.for_data((3, 32, 32)) == resolved.model.network
    assert conditioner == ClassLabel(classes=3) == resolved.model.conditioner
    assert resolved.model.classes == ("class 0", "class 1", "class 2")
    assert resolved.model.shape == (3, 32, 32)
    assert [note.partition(":")[0] for note in resolved.notes[:2]] == ["network", "conditioner"]
    assert (
        resolved.notes[2] == f"{count_parameters(UNet.for_data((3, 32, 32)), (3, 32, 32)):,} parameters in the network"
    )


@pytest.mark.parametrize(("side", "kind"), [(8, "mlp"), (16, "mlp"), (32, "unet")])
def test_maps_of_very_small_images_get_an_mlp(tiny: Make, side: int, kind: str) -> None:
    tree = {**AUTO, "path": "edm", "time": "log_sigma", "prediction": "edm", "objective": {"kind": "consistency"}}
    recipe = tiny(tree=tree, steps=2000)
    resolved = recipe.resolve(pictures(side=side, channels=3))
    assert resolved.model.network.kind == kind
    assert ("MLP of 512 units" in resolved.notes[0]) is (kind == "mlp")
    denoiser = tiny(tree=AUTO).resolve(pictures(side=side, channels=3))
    assert denoiser.model.network.kind == "unet"


def test_points_get_an_mlp(tiny: Make) -> None:
    recipe = tiny(tree={"network": "auto"})
    assert recipe.resolve(recipe.data.load()).model.network == MLP(width=256)


@pytest.mark.parametrize("classes", [0, 1])
def test_without_classes_the_model_is_unconditional(tiny: Make, classes: int) -> None:
    resolved = tiny(tree=AUTO).resolve(pictures(classes=classes))
    assert resolved.model.conditioner == NoCondition()
    assert resolved.model.classes == ()
    assert "conditioner: none, because the data have no labels" in resolved.notes


def test_what_was_chosen_is_kept(tiny: Make) -> None:
    recipe = tiny(tree={"conditioner": "none"})
    resolved = recipe.resolve(recipe.data.load())
    assert resolved.recipe == recipe
    assert (resolved.model.network, resolved.model.path) == (recipe.network, recipe.path)
    assert resolved.model.classes == ()


def test_labels_that_the_data_lack_are_refused(tiny: Make) -> None:
    recipe = tiny(tree={"network": "auto", "conditioner": {"kind": "class_label", "classes": 3}})
    with pytest.raises(UsageError, match="conditioner 'class_label' needs labels, but the data have none; use condit"):
        recipe.resolve(pictures(classes=0))


def test_another_number_of_classes_is_refused(tiny: Make) -> None:
    recipe = tiny(tree={"network": "auto", "conditioner": {"kind": "class_label", "classes": 10}})
    with pytest.raises(
        UsageError, match=r"conditioner.classes is 10, but the data have 3 classes; correct it, or leave"
    ):
        recipe.resolve(pictures(classes=3))


def test_low_resolution_widens_the_network_and_may_be_told_the_classes_too(tiny: Make) -> None:
    tree = {"network": "auto", "conditioner": {"kind": "low_resolution", "factor": 2}}
    plain, told = (
        tiny(tree={**tree, "conditioner": {"kind": "low_resolution", "factor": 2, "classes": classes}})
        for classes in (0, 3)
    )
    resolved = plain.resolve(pictures(classes=3))
    assert resolved.model.network == resolved.recipe.network.replace(extra_channels=resolved.model.shape[0] + 1)
    weights = sum(p.numel() for p in resolved.model.build().network.parameters())
    assert f"{weights:,} parameters in the network" in resolved.notes
    assert resolved.model.classes == ()
    assert len(told.resolve(pictures(classes=3)).model.classes) == 3
    with pytest.raises(UsageError, match=r"'low_resolution' needs labels, but the data have none.*one without classes"):
        told.resolve(pictures(classes=0))
    with pytest.raises(UsageError, match=r"conditioner.classes is 3, but the data have 4 classes"):
        told.resolve(pictures(classes=4))
    with pytest.raises(UsageError, match=r"conditioner.factor 7 does not divide"):
        tiny(tree={**tree, "conditioner": {"kind": "low_resolution", "factor": 7}}).resolve(pictures(classes=3))


def test_a_map_is_not_sampled_by_a_solver_for_means(tiny: Make) -> None:
    """Found before training, not when its first samples are drawn."""
    tree = {"objective": "consistency", "path": "edm", "prediction": "consistency", "time": "log_sigma"}
    good = {"solver": "consistency", "grid": {"kind": "karras", "sigma_min": 0.8, "steps": 1}}
    check_recipe(tiny(tree={**tree, "sampling": good}, steps=2000))
    with pytest.raises(UsageError, match=r"solver 'ddim' needs the posterior mean, but objective 'consistency'"):
        check_recipe(tiny(tree={**tree, "sampling": {**good, "solver": "ddim"}}, steps=2000))


def test_a_network_of_another_kind_of_data_is_refused(tiny: Make) -> None:
    with pytest.raises(UsageError, match=r"a U-Net needs data of shape \(C, H, W\)"):
        tiny().replace(network=UNet(channels=8, groups=4)).resolve(GaussianMixture(count=10).load())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"steps": 0}}, r"training.steps: .* greater than or equal to 1 \(got 0\)"),
        ({"training": {"batch": -8}}, r"training.batch: .* greater than or equal to 1 \(got -8\)"),
        ({"training": {"accumulate": 0}}, r"training.accumulate: .*\(got 0\)"),
        ({"training": {"ema": []}}, "training.ema: .* at least 1 item"),
        ({"training": {"ema": [5.0, 5.0]}}, r"ema \(5.0, 5.0\) must be different half-lives above 0, in whole images"),
        ({"training": {"ema": [-1.0]}}, r"ema \(-1.0,\) must be different half-lives above 0"),
        ({"training": {"precision": "float16"}}, r"training.precision: .*'float32' or 'bfloat16' \(got 'float16'\)"),
        ({"training": {"stesp": 3}}, "no key 'training.stesp'; did you mean 'steps'"),
        ({"optimiser": {"lr": 0}}, r"optimiser.lr: .* greater than 0 \(got 0\)"),
        ({"optimiser": {"clip": 0}}, r"optimiser.clip: .* greater than 0 \(got 0\)"),
        ({"optimiser": {"decay": "step"}}, r"optimiser.decay: .*'none', 'linear' or 'cosine' \(got 'step'\)"),
        ({"optimiser": {"decay_from": 1.0}}, r"optimiser.decay_from: .* less than 1 \(got 1.0\)"),
        ({"evaluation": {"samples": 1}}, r"evaluation.samples: .*\(got 1\)"),
        ({"objective": {"condition_dropout": 1.5}}, r"condition_dropout: .* less than or equal to 1 \(got 1.5\)"),
        ({"path": {"kind": "pv"}}, "path: path 'pv' does not exist; did you mean 'vp'"),
        ({"sampling": {"solver": {"kind": "dpmp"}}}, "solver 'dpmp' does not exist; did you mean 'dpmpp'"),
        ({"network": {"widht": 8}}, "network 'mlp' has no key 'widht'; did you mean 'width'"),
        ({"sigma_data": -0.5}, r"sigma_data.*greater than 0 \(got -0.5\)"),
        ({"networks": "unet"}, "no key 'networks'; did you mean 'network'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_cannot_be_is_named_with_what_can(tiny: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(tree=changes)


def test_guidance_that_the_model_could_not_follow_is_refused_before_data(tiny: Make) -> None:
    plain = tiny()
    guided = plain.replace(sampling=plain.sampling.replace(guidance=CFG(scale=2.0)))
    with pytest.raises(UsageError, match="'cfg' needs a conditional model, but the conditioner is 'none'"):
        check_recipe(guided.replace(conditioner=NoCondition()))
    labelled = guided.replace(conditioner=ClassLabel(classes=8))
    with pytest.raises(UsageError, match="condition_dropout is 0, so that it is never trained"):
        check_recipe(labelled.replace(objective=Denoising(condition_dropout=0.0)))
    check_recipe(labelled)
    # Both of autoguidance's models are asked the same, so that an unconditional one will do.
    worse = Autoguidance(scale=2.0, bad="runs/worse")
    check_recipe(plain.replace(conditioner=NoCondition(), sampling=plain.sampling.replace(guidance=worse)))


@pytest.mark.parametrize(
    ("solver", "guidance", "message"),
    [
        (UniPC(), CFGPlusPlus(), "solver 'unipc' has no place for; use solver ddim or ddpm"),
        (UniPC(), DPS(measurement=Inpainting()), "solver 'unipc' would take for a bend of their way"),
        (DDIM(), DPS(measurement=Inpainting()), "'dps' needs a measurement of each sample.*use it from Python"),
    ],
)
def test_guidance_that_sampling_could_not_follow_is_refused_before_data(
    tiny: Make, solver: SolverPart, guidance: GuidancePart, message: str
) -> None:
    plain = tiny().replace(conditioner=ClassLabel(classes=8))
    with pytest.raises(UsageError, match=message):
        check_recipe(plain.replace(sampling=plain.sampling.replace(solver=solver, guidance=guidance)))


def test_the_data_s_deviation_is_measured_where_asked_for(tiny: Make) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 1), dtype=np.uint8)
    resolved = tiny(tree={"sigma_data": "auto", "conditioner": "none"}).resolve(Dataset.of("noise", pixels))
    found = float((pixels / 127.5 - 1).std())
    assert resolved.model.sigma_data == resolved.recipe.sigma_data == pytest.approx(found, rel=5e-3)
    assert any(note.startswith("sigma_data: ") for note in resolved.notes)
    assert resolved.recipe.resolve(Dataset.of("noise", pixels)).model == resolved.model
    with pytest.raises(UsageError, match="sigma_data=auto has nothing to measure"):
        tiny(tree={"sigma_data": "auto"}).resolve(pictures())
