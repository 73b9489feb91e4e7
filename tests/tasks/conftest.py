"""What the tests of tasks share: tiny models in folders, written rather than trained, and pictures to judge them by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from suffuse.base.randomness import keys, uniform
from suffuse.data import DataPart, Dataset, Digits
from suffuse.models.conditioner import ClassLabel, ConditionerPart, NoCondition
from suffuse.models.config import ModelConfig
from suffuse.models.pretrained import save_model
from suffuse.networks import MLP, UNet
from suffuse.process import VP, V
from suffuse.sampling import DDIM, Uniform
from suffuse.tasks.runs import OpenRun, open_run
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import dump_recipe
from suffuse.training.settings import SamplingSettings

SHAPE = (3, 8, 8)
PATH, SAMPLING = VP(steps=100), SamplingSettings(solver=DDIM(), grid=Uniform(steps=3))
MakeRun = Callable[..., OpenRun]
MakePictures = Callable[..., Dataset]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run with fresh weights.

    Args of the function: name of the folder, shape of a sample, names of the classes, data and about of the recipe
    (None: no recipe at all, as after a conversion), seed of the weights, conditioner (None: the classes, if any).
    """

    def make(
        name: str = "run",
        shape: tuple[int, ...] = SHAPE,
        classes: tuple[str, ...] = (),
        data: DataPart | None = None,
        about: str = "",
        seed: int = 0,
        conditioner: ConditionerPart | None = None,
    ) -> OpenRun:
        unet = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4, zero_init=False)
        config = ModelConfig(
            network=unet if len(shape) == 3 else MLP(width=16, depth=1, zero_init=False),
            shape=shape,
            path=PATH,
            prediction=V(),
            conditioner=conditioner or (ClassLabel(classes=len(classes)) if classes else NoCondition()),
            classes=classes,
        )
        folder = tmp_path / name
        save_model(folder, config, config.build(seed=seed).state_dict(), {})
        if data is not None:
            recipe = Recipe(about=about, data=data, path=PATH, prediction=V(), sampling=SAMPLING)
            (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        return open_run(folder, device="cpu")

    return make


@pytest.fixture
def digits_run(make_run: MakeRun) -> OpenRun:
    """A class-conditional run of the embedded digits."""
    return make_run(shape=(1, 8, 8), classes=tuple(map(str, range(10))), data=Digits())


@pytest.fixture(scope="session")
def make_pictures() -> MakePictures:
    """Random pictures with labels in turn."""

    def make(count: int = 24, classes: tuple[str, ...] = ("cat", "dog"), name: str = "pets") -> Dataset:
        drawn = uniform(keys(0, "pictures", 0, torch.arange(count)), int(np.prod(SHAPE)))
        pixels = (drawn * 256).floor().reshape(count, *SHAPE).permute(0, 2, 3, 1).to(torch.uint8).numpy()
        labels = np.arange(count) % max(1, len(classes)) if classes else None
        return Dataset.of(name, pixels, labels=labels, classes=classes)

    return make
