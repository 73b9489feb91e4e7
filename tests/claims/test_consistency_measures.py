"""Measures of the consistency family on models that are known exactly; arms that build on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from suffuse.base.errors import UsageError
from suffuse.claims.arms import model_identity, recipe_of
from suffuse.claims.measures import Bench, DenoisingErrorAt, GradientNoise, InlierDistances, MapError, PointDistances
from suffuse.claims.protocol import Arm, Claim, Criterion, Experiment
from suffuse.claims.verify import Settings, verify
from suffuse.data import GaussianMixture
from suffuse.models.config import ModelConfig
from suffuse.models.exact import ExactMixture
from suffuse.models.exact_flow_map import ExactGaussianMap
from suffuse.networks import MLP
from suffuse.process import EDM, EDMPrediction, LogSigma
from suffuse.tasks.runs import OpenRun
from suffuse.training.recipe_files import load_recipe

ONE = GaussianMixture(means=((0.0, 0.0),), stds=(0.5,), count=500)
TINY = ("batch=16", "steps=8", "network.width=8", "network.depth=1", "data.count=100", "checkpoint_every=4")


def _bench(model: Any, data: GaussianMixture = ONE) -> Bench:
    recipe = load_recipe("ring-ict").replace(data=data)
    config = ModelConfig(
        network=MLP(width=8, depth=1), shape=(2,), path=EDM(), prediction=EDMPrediction(), time=LogSigma()
    )
    return Bench(OpenRun(Path("run"), model, config, recipe), data.load(), None)  # type: ignore[arg-type]  # nobody judges


def test_an_exact_map_is_at_the_floor_and_without_error() -> None:
    bench = _bench(ExactGaussianMap(EDM(), std=0.5, end=0.002))
    found = PointDistances(samples=4000).of(bench)
    assert found["sliced_consistency@1"] < 0.03
    assert found["sliced_consistency@2"] < 0.03
    assert found["spread_consistency@1"] == pytest.approx(1, abs=0.03)
    error = MapError(samples=200, steps=128).of(bench)
    assert error["map_error"] < 0.01 < error["mean_error"]


def test_the_best_denoiser_has_the_best_error_and_jumps_to_the_mean() -> None:
    bench = _bench(ExactMixture(EDM(), *ONE.parameters()))
    assert DenoisingErrorAt(samples=500).of(bench)["denoising_error"] == pytest.approx(1, abs=1e-5)
    assert PointDistances(samples=1000, nfe=(1,)).of(bench)["spread_consistency@1"] < 0.02


def test_measures_refuse_data_whose_law_they_do_not_know() -> None:
    bench = _bench(ExactMixture(EDM(), *ONE.parameters()))
    with pytest.raises(UsageError, match="did not learn outliers"):
        InlierDistances().of(bench)


def _experiment(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "arms": (
            Arm(name="denoiser", recipe="ring-edm"),
            Arm(name="tuned", recipe="ring-ect", overrides=("init.run={after}",), after="denoiser"),
            Arm(
                name="second",
                recipe="ring-tcm",
                overrides=("init.run={after}", "objective.truncation.run={after}"),
                after="tuned",
            ),
        ),
        "shared": TINY,
        "measures": (PointDistances(samples=50, nfe=(1,)), GradientNoise(batches=3)),
        "criteria": (Criterion(value="sliced_consistency@1", arm="tuned", over="denoiser", at_most=5.0),),
        "seeds": (0, 1),
    }
    return Experiment.model_validate({**fields, **changes})


def _claim(experiment: Experiment) -> Claim:
    return Claim("tiny-chain", "consistency", "geng2024ect", "suffuse", "It runs.", "none", {"small": experiment})


def test_arms_that_build_on_others_wait_for_them(tmp_path: Path) -> None:
    (found,) = verify([_claim(_experiment())], "small", Settings(store=tmp_path, jobs=2, threads=1))
    assert set(found.values) == {"denoiser", "tuned", "second"}
    assert found.values["second"][0]["gradient_variance"] > 0
    (again,) = verify([_claim(_experiment())], "small", Settings(store=tmp_path))
    assert (again.fresh, again.values) == (0, found.values)


def test_an_arm_is_another_one_when_what_it_builds_on_is(tmp_path: Path) -> None:
    plain = _experiment()
    (changed,) = (_experiment(arms=(plain.arms[0].replace(overrides=("optimiser.lr=5e-4",)), *plain.arms[1:])),)
    identities = [model_identity(recipe_of(each, each.arms[2], 0)) for each in (plain, changed)]  # type: ignore[arg-type]  # a trained arm
    assert identities[0] != identities[1]
    moved = recipe_of(plain, plain.arms[1], 0, place=lambda arm: "/somewhere/key")  # type: ignore[arg-type]  # as above
    other = recipe_of(plain, plain.arms[1], 0, place=lambda arm: "/elsewhere/key")  # type: ignore[arg-type]  # as above
    assert model_identity(moved) == model_identity(other)


def test_an_arm_builds_on_one_before_it() -> None:
    arms = _experiment().arms
    with pytest.raises(ValueError, match="must be a trained arm before it"):
        _experiment(arms=(arms[1], arms[0]))
