"""Opening runs, the user's wishes over a run's own settings, and reference data at a run's size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suffuse.base.errors import UsageError
from suffuse.data import Digits, Rings, Shapes
from suffuse.sampling import (
    CFG,
    DDIM,
    Autoguidance,
    CFGPlusPlus,
    DPMSolverPP,
    Heun,
    Karras,
    ListedTimes,
    NoGuidance,
    NoiseInjection,
    Uniform,
)
from suffuse.tasks.runs import OpenRun, Wanted, named, other_data, settle
from suffuse.training.recipe import Recipe
from suffuse.training.settings import SamplingSettings

MakeRun = Callable[..., OpenRun]


def test_a_run_samples_as_its_recipe_says_and_a_converted_one_by_default(make_run: MakeRun) -> None:
    trained, converted = make_run("trained", data=Digits()), make_run("converted")
    assert trained.sampling == SamplingSettings(solver=DDIM(), grid=Uniform(steps=3))
    assert converted.recipe is None
    assert converted.sampling == SamplingSettings()
    assert (trained.name, trained.model.training) == ("trained", False)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), {}),
        (Wanted(solver="dpmpp"), {"solver": DPMSolverPP()}),
        (Wanted(solver={"kind": "ddim", "eta": 1}), {"solver": DDIM(eta=1)}),
        (Wanted(grid="karras"), {"grid": Karras(steps=3)}),
        (Wanted(grid={"kind": "karras", "rho": 5}, steps=9), {"grid": Karras(steps=9, rho=5)}),
        (Wanted(grid={"kind": "list", "listed": [90, 40]}), {"grid": ListedTimes(listed=(90, 40))}),
        (Wanted(nfe=7), {"grid": Uniform(steps=7)}),
        (Wanted(nfe=7, solver="heun"), {"grid": Uniform(steps=4), "solver": Heun()}),
        (Wanted(nfe=7, cfg=3), {"grid": Uniform(steps=3), "guidance": CFG(scale=3)}),
        (Wanted(nfe=7, cfg=0), {"grid": Uniform(steps=7), "guidance": CFG(scale=0)}),
        (Wanted(cfg=1), {"guidance": NoGuidance()}),
        (Wanted(batch=4), {"batch": 4}),
        (Wanted(precision="bfloat16"), {"precision": "bfloat16"}),
        (
            Wanted(nfe=7, solver="heun", grid={"kind": "uniform", "end": "t_min"}),
            {"grid": Uniform(steps=3, end="t_min"), "solver": Heun()},
        ),
    ],
)
def test_wishes_are_laid_over_the_run_s_own_settings(
    digits_run: OpenRun, wanted: Wanted, expected: dict[str, Any]
) -> None:
    assert settle(digits_run, wanted) == digits_run.sampling.replace(**expected)


def test_another_scale_keeps_the_interval_of_the_run_s_guidance(digits_run: OpenRun) -> None:
    assert digits_run.recipe is not None
    own = CFG(scale=2, above=0.3, up_to=5, together=False)
    recipe = digits_run.recipe.replace(sampling=digits_run.sampling.replace(guidance=own))
    run = replace(digits_run, recipe=recipe)
    assert settle(run, Wanted(cfg=4)).guidance == own.replace(scale=4)
    assert settle(run, Wanted()).guidance == own
    assert settle(run, Wanted(cfg=1)).guidance == NoGuidance()


def test_guidance_needs_a_half_that_was_trained(digits_run: OpenRun) -> None:
    recipe = digits_run.recipe
    assert isinstance(recipe, Recipe)
    run = replace(digits_run, recipe=recipe.replace(objective=recipe.objective.replace(condition_dropout=0.0)))
    assert settle(run, Wanted(cfg=1)).guidance == NoGuidance()
    with pytest.raises(UsageError, match=r"condition_dropout=0, so that it never learned one; leave cfg out"):
        settle(run, Wanted(cfg=3))


def test_cfg_plus_plus_keeps_its_own_scale_and_its_solvers(digits_run: OpenRun) -> None:
    assert digits_run.recipe is not None
    sampling = digits_run.sampling.replace(guidance=CFGPlusPlus(), solver=DDIM())
    run = replace(digits_run, recipe=digits_run.recipe.replace(sampling=sampling))
    assert settle(run, Wanted(cfg=1)).guidance == CFGPlusPlus(scale=1.0)
    with pytest.raises(UsageError, match=r"scale: .* less than or equal to 1 \(got 3"):
        settle(run, Wanted(cfg=3))
    with pytest.raises(UsageError, match="solver 'unipc' has no place for; use solver ddim or ddpm"):
        settle(run, Wanted(solver="unipc"))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Wanted(nfe=1, cfg=2), "cannot do a step"),
        (Wanted(grid={"kind": "list", "listed": [90, 40]}, steps=3), "leave steps out"),
        (Wanted(solver={"eta": 1}), "solver needs `kind`"),
        (Wanted(precision="half"), "precision: Input should be 'float32' or 'bfloat16' .*'half'"),
        # The last step ends at noise, so that it takes two evaluations as well.
        (Wanted(nfe=1, solver="heun", grid={"kind": "uniform", "end": "t_min"}), "cannot do a step in 1 eval"),
    ],
)
def test_wishes_that_exclude_each_other_are_refused(digits_run: OpenRun, wanted: Wanted, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        settle(digits_run, wanted)


def test_a_part_in_a_line_shows_what_is_not_its_default() -> None:
    assert named(Heun()) == "heun"
    assert named(Heun(churn=40, churn_to=50)) == "heun(churn=40.0, churn_to=50.0)"
    assert named(CFG(scale=2, up_to=math.inf)) == "cfg(scale=2.0)"


def test_reference_data_come_at_the_run_s_size(make_run: MakeRun, tmp_path: Path) -> None:
    large = make_run(shape=(3, 12, 12))
    assert other_data(large, None) is None
    assert other_data(large, "shapes") == Shapes(size=12)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((20, 30), 40 * i, np.uint8)).save(folder / f"{i}.png")
    source = other_data(large, str(folder))
    assert source is not None
    assert source.load(tmp_path / "cache").shape == (3, 12, 12)


def test_reference_data_of_another_kind_are_refused(make_run: MakeRun) -> None:
    points = make_run(shape=(2,))
    assert other_data(points, "rings") == Rings()
    for run in (points, make_run("pairs", shape=(2, 8, 8))):
        with pytest.raises(UsageError, match=r"makes samples of \(2,.*but data 'digits' are images"):
            other_data(run, "digits")


def test_a_scale_goes_to_the_guidance_inside_and_what_is_beside_it_stays(
    digits_run: OpenRun,
) -> None:
    assert digits_run.recipe is not None
    recipe = digits_run.recipe
    own = NoiseInjection(inner=CFG(scale=2.0, above=0.5))
    run = replace(digits_run, recipe=recipe.replace(sampling=digits_run.sampling.replace(guidance=own)))
    assert settle(run, Wanted(cfg=4)).guidance == own.replace(inner=CFG(scale=4.0, above=0.5))
    bad = Autoguidance(bad="somewhere", scale=2.0)
    run = replace(digits_run, recipe=recipe.replace(sampling=digits_run.sampling.replace(guidance=bad)))
    with pytest.raises(UsageError, match="sampled with guidance 'autoguidance', which has no scale of classifier-free"):
        settle(run, Wanted(cfg=4))
