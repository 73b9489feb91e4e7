"""Every recipe of the package: it can be read, its parts go together, its network is built, and it says how to run."""

from __future__ import annotations

import importlib.util
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from suffuse.base.techniques import TECHNIQUES
from suffuse.data import Dataset
from suffuse.models.alignment import AlignmentConfig
from suffuse.models.codec import CodecConfig
from suffuse.models.conditioner import ClassLabel
from suffuse.models.semantic import Semantic
from suffuse.training.codec_recipe import CodecRecipe
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import dump_recipe, dump_tree, list_recipes, load_recipe, read_recipe_file
from suffuse.training.recipes import AnyRecipe
from suffuse.training.run import check_recipe
from suffuse.training.stages import has_stages, load_stages

every_recipe = pytest.mark.parametrize("name", list_recipes())
Recipes = dict[str, AnyRecipe]


def all_of(name: str, overrides: tuple[str, ...] = ()) -> Recipes:
    """A recipe's stages by name; a recipe without has one, of no name."""
    if has_stages(name):
        return dict(load_stages(name, overrides).stages)
    return {"": load_recipe(name, overrides)}


def shape_of(recipe: AnyRecipe, before: Recipes) -> tuple[int, ...]:
    """Of what a recipe learns: pictures, or the latents of the autoencoder that it names."""
    fields = recipe.data.dump()
    channels = 1 if recipe.data.kind == "digits" or fields.get("channels") == "grey" else 3
    pictures = (channels, fields["size"], fields["size"])
    if not isinstance(recipe, Recipe) or recipe.codec is None:
        return pictures
    stage = recipe.codec.run.removeprefix("stage:")
    first = before[stage] if stage in before else load_recipe(Path(recipe.codec.run).name)
    if isinstance(first, CodecRecipe):
        return first.network.latent_shape(pictures)
    assert isinstance(first.conditioner, Semantic)
    return first.conditioner.compressor.latent_shape(pictures)


def made_data(recipe: AnyRecipe, before: Recipes | None = None) -> Dataset:
    """Black and white pictures in the shape of the recipe's data, or latents of the right shape, in ten classes."""
    if "size" not in recipe.data.dump():  # points, which are made on the spot
        return recipe.data.load()
    shape = shape_of(recipe, before or {})
    latents = isinstance(recipe, Recipe) and recipe.codec is not None
    values = np.zeros((10, *shape), np.float32) if latents else np.zeros((10, *shape[1:], shape[0]), np.uint8)
    values[::2] = 1 if latents else 255
    told = recipe.conditioner if isinstance(recipe, Recipe) else "none"
    count = 0 if isinstance(told, str) else told.label_count
    labels, classes = np.arange(10), [str(number) for number in range(count or 10)]
    captions = [f"number {number}" for number in labels]
    return Dataset.of("made", values, labels=labels, classes=classes, captions=captions, latents=latents)


def seen(recipe: AnyRecipe, before: Recipes) -> AnyRecipe:
    """The recipe told of the pictures that its conditioner sees."""
    if not isinstance(recipe, Recipe) or isinstance(recipe.conditioner, str) or not recipe.conditioner.sees_images:
        return recipe
    pictures = shape_of(recipe.replace(codec=None), before)
    return recipe.replace(conditioner=recipe.conditioner.seeing(pictures))


def buildable(recipe: Recipe) -> bool:
    """Whether all packages are here that its conditioner is made of."""
    told = recipe.conditioner
    published = isinstance(told, Semantic) and told.compressor.backbone != "conv"
    return not published or importlib.util.find_spec("torchvision") is not None


@every_recipe
def test_its_parts_go_together(name: str) -> None:
    for recipe in all_of(name).values():
        check_recipe(recipe)


@every_recipe
def test_its_network_is_built_and_maps_samples_to_samples(name: str) -> None:
    """Without memory for the weights: shapes are checked where no value is."""
    recipes = all_of(name)
    for plain in recipes.values():
        recipe, data = seen(plain, recipes), made_data(plain, recipes)
        config = recipe.resolve(data).model
        if isinstance(config, AlignmentConfig):
            with torch.device("meta"):
                assert config.build().images(torch.zeros(2, *data.shape)).shape == (2, config.width)
            continue
        if isinstance(config, CodecConfig):
            with torch.device("meta"):
                codec = config.build()
                latents = codec.encode(torch.zeros(2, *data.shape))
                assert latents.shape == (2, *config.latent_shape)
                assert codec.decode(latents).shape == (2, *data.shape)
            continue
        if isinstance(recipe, Recipe) and not buildable(recipe):
            continue
        cond = data.batch(torch.arange(2)).cond.to("meta")
        with torch.device("meta"):
            network = config.network.build(config.shape)
            embedded = config.conditioner.build(network.cond_width, config.shape)(cond, 2)
            output = network(embedded.beside(torch.zeros(2, *data.shape)), torch.zeros(2), embedded)
        assert output.value.shape == (2, *data.shape)


@every_recipe
def test_it_reads_back_as_an_equal_one_before_and_after_the_data(name: str, tmp_path: Path) -> None:
    recipes = all_of(name)
    file = tmp_path / "again.yaml"
    for plain in recipes.values():
        recipe = seen(plain, recipes)
        for kind in (recipe, recipe.resolve(made_data(plain, recipes)).recipe):
            file.write_text(dump_recipe(kind))
            assert load_recipe(str(file)) == kind
    if "" not in recipes:
        file.write_text(dump_tree(load_stages(name).dump()))
        assert load_stages(str(file)) == load_stages(name)


@every_recipe
def test_it_opens_with_its_command(name: str) -> None:
    text = files("suffuse.recipes").joinpath(f"{name}.yaml").read_text()
    first = text.splitlines()[0]
    assert re.match(rf"# suffuse train {name}( |$)", first), first
    assert text.splitlines()[1].startswith("# "), "the second line says what it is, and on what"
    assert read_recipe_file(name)["about"]


@every_recipe
def test_its_technique_knows_it(name: str) -> None:
    technique = read_recipe_file(name).get("technique", "")
    holders = [key for key, entry in TECHNIQUES.items() if name in entry.recipes]
    assert holders == ([technique] if technique else [])


@every_recipe
def test_short_overrides_are_taken(name: str) -> None:
    sized = ("size=32",) if "size" in next(iter(all_of(name).values())).data.dump() else ()
    # Curricula need as many steps as they have intervals.
    asked = ("steps=2000", "batch=2", "seed=1", "device=cpu", "precision=bfloat16", *sized)
    for recipe in all_of(name, asked).values():
        assert (recipe.training.steps, recipe.training.batch, recipe.training.seed) == (2000, 2, 1)
        assert not sized or recipe.data.dump()["size"] == 32
        check_recipe(recipe)


def test_a_recipe_with_a_base_changes_a_few_lines_of_it() -> None:
    for name in list_recipes():
        text = files("suffuse.recipes").joinpath(f"{name}.yaml").read_text()
        base = re.search(r"^base: (\S+)$", text, re.MULTILINE)
        if base is None:
            continue
        mine, theirs = read_recipe_file(name), read_recipe_file(base[1])
        changed = {key for key in mine if mine[key] != theirs.get(key)} - {"about", "technique"}
        assert changed, f"{name} is {base[1]} under another name"
        assert len(changed) <= len(theirs) / 2, f"{name} shares little with {base[1]}"


@pytest.mark.parametrize("pair", [("digits-etsdm", "digits-ddpm"), ("cifar10-etsdm", "cifar10-ddpm")])
def test_etsdm_and_its_baseline_differ_in_what_the_network_is_told_alone(pair: tuple[str, str]) -> None:
    ours, baseline = (load_recipe(name) for name in pair)
    assert ours.time.kind == "shared"
    assert ours.replace(time=baseline.time, about=baseline.about, technique="") == baseline


def test_conditional_recipes_learn_all_classes_of_the_data() -> None:
    recipe = load_recipe("digits-ddpm")
    assert recipe.resolve(made_data(recipe)).model.conditioner == ClassLabel(classes=10)
