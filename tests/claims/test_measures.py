"""Measures: what they give on models that are known, and what they leave as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.claims.measures import Bench, Distance, ExcessError, NoiseErrors, TimeLipschitz
from suffuse.data import Dataset, LowRankMixture
from suffuse.models.config import ModelConfig
from suffuse.models.exact_low_rank import ExactLowRank
from suffuse.models.told_optimum import ToldOptimum
from suffuse.networks import MLP, Output
from suffuse.process import VP, Eps, Identity, SharedTimesteps, TimeConditionPart
from suffuse.sampling import DDIM
from suffuse.tasks.runs import OpenRun
from suffuse.training.recipe_files import load_recipe

DENSITY = LowRankMixture(ambient=6, rank=2, count=50)
PATH = VP(steps=1000)


class Best(torch.nn.Module):
    """The best network of the density that is told only so much, in a network's place."""

    def __init__(self, time: TimeConditionPart) -> None:
        super().__init__()
        self.best = ToldOptimum(ExactLowRank(PATH, *DENSITY.parameters()), prediction=Eps(), time=time)
        self.t: Tensor = torch.zeros(1)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, told: Tensor, cond: Embedding | None = None, **options: Any) -> Output:
        # Told values are times here: those of a sub-interval's left edge have the same best output.
        return Output(self.best.output(x, told.double()))


def bench(time: TimeConditionPart, judge: Any = None) -> Bench:
    overrides = [f"data.{name}={getattr(DENSITY, name)}" for name in ("kind", "ambient", "rank", "count")]
    recipe = load_recipe("digits-ddpm", [*overrides, "network=mlp", "conditioner=none"])
    config = ModelConfig(network=MLP(width=8, depth=1), shape=(6,), path=PATH, prediction=Eps(), time=time)
    model = config.build().eval()
    model.network = Best(time)  # type: ignore[assignment]  # it answers as a network does
    return Bench(OpenRun(Path("run"), model, config, recipe), DENSITY.load(), judge)


def test_the_best_network_has_no_excess() -> None:
    found = ExcessError(samples=400).of(bench(Identity()))
    assert {name: found[name] for name in ("excess@0", "fit@0", "excess@400")} == pytest.approx(
        {"excess@0": 0, "fit@0": 0, "excess@400": 0}, abs=1e-8
    )
    assert found["bayes@0"] > found["bayes@100"] > found["bayes@400"] > 0


def test_the_best_network_of_shared_times_fits_them_and_pays_their_price() -> None:
    found = ExcessError(samples=400).of(bench(SharedTimesteps(below=100, intervals=2)))
    assert found["fit@0"] == pytest.approx(0, abs=1e-8)
    assert found["excess@0"] > 1e-3
    assert found["excess@100"] == pytest.approx(0, abs=1e-8)


def test_the_error_of_the_best_network_is_bayes() -> None:
    one = bench(Identity())
    points = Dataset.of("points", DENSITY.sample(4000, seed=3).numpy())
    found = NoiseErrors(samples=8000).of(Bench(one.run, points, one.judge))
    assert found["eps_mse@0"] == pytest.approx(ExcessError(samples=8000).of(one)["bayes@0"], rel=0.05)


def test_a_shared_network_does_not_change_inside_and_does_at_edges() -> None:
    found = TimeLipschitz(samples=8).of(bench(SharedTimesteps(below=100, intervals=5)))
    assert (found["K_inside"], found["K_first"]) == (0, 0)
    assert found["K@99"] > 0
    plain = TimeLipschitz(samples=8).of(bench(Identity()))
    assert plain["K_first"] > 0
    assert "K_inside" not in plain, "nothing is shared"


def test_other_data_have_no_known_best_network() -> None:
    one = bench(Identity())
    other = OpenRun(one.run.folder, one.run.model, one.run.config, load_recipe("digits-ddpm"))
    with pytest.raises(UsageError, match="did not learn low_rank data"):
        ExcessError().of(Bench(other, one.data, one.judge))


def test_distances_are_named_by_solver_and_cost() -> None:
    assert Distance(solver=DDIM(), nfe=7).name == "distance_ddim@7"
    assert Distance(nfe=7, told=SharedTimesteps()).name == "distance_ddim_told_shared@7"


def test_what_is_told_while_sampling_is_put_back_whatever_happens() -> None:
    def judge() -> Any:
        raise RuntimeError("no judge")

    one = bench(Identity(), judge)
    with pytest.raises(RuntimeError, match="no judge"):
        Distance(nfe=2, samples=6, told=SharedTimesteps()).of(one)
    assert one.run.model.time == Identity()
