"""Runs of consistency objectives: resumed within a curriculum, tuned, distilled, truncated; and their copies."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.models.flow_map import FlowMap
from suffuse.sampling import sample
from suffuse.training.checkpoint import find_latest
from suffuse.training.frozen_parts import PARTS
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import dump_recipe, load_recipe
from suffuse.training.run import Watcher, train
from suffuse.training.signals import Stopped

Make = Callable[..., Recipe]
Remains = Callable[[Path], dict[str, Any]]

MAP: dict[str, Any] = {
    "path": {"kind": "edm"},
    "prediction": {"kind": "edm"},
    "time": "log_sigma",
    "optimiser": {"kind": "radam", "lr": 1e-2, "clip": None},
    "sampling": {"solver": {"kind": "consistency"}, "grid": {"kind": "karras", "sigma_min": 0.8, "steps": 2}},
}
CURRICULUM = {"kind": "doubling", "s0": 2, "s1": 8}
ICT = {**MAP, "objective": {"kind": "consistency", "pairs": {"kind": "grid", "curriculum": CURRICULUM}}}
DENOISER = {
    **MAP,
    "objective": {"kind": "denoising", "noise_levels": "log_normal"},
    "sampling": {"solver": {"kind": "heun"}, "grid": {"kind": "karras", "steps": 3}},
}


def _objective(**changes: Any) -> dict[str, Any]:  # Any: fields of an objective
    return {**ICT, "objective": {**ICT["objective"], **changes}}


VARIANTS: dict[str, dict[str, Any]] = {
    "own weights": ICT,
    "averaged target": _objective(target={"kind": "average", "mu0": 0.5, "s0": 2}),
    "transport": {**ICT, "coupling": "optimal_transport"},
    "low noise": _objective(low_noise={"strength": 5.0}, metric={"kind": "cauchy", "c": "grid"}),
    "gap": _objective(pairs={"kind": "gap", "stages": 4}, end="clean"),
    "sCM": {
        **MAP,
        "path": {"kind": "trigonometric", "sigma_data": 0.5},
        "time": "identity",
        "objective": {"kind": "continuous_consistency"},
        "sampling": {"solver": {"kind": "consistency"}, "grid": {"kind": "uniform", "steps": 2}},
    },
    "MeanFlow": {
        **MAP,
        "path": "flow",
        "prediction": "flow",
        "time": "identity",
        "objective": {"kind": "mean_flow"},
        "sampling": {"solver": {"kind": "map_steps"}, "grid": {"kind": "uniform", "steps": 2}},
    },
}


def _stopped_after(recipe: Recipe, steps: int) -> None:
    def progress(step: int, total: int, numbers: dict[str, float]) -> None:
        if step == steps:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped):
        train(recipe, "name", watcher=Watcher(progress=progress))


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_within_a_curriculum_is_the_straight_run(tiny: Make, remains: Remains, variant: str) -> None:
    tree = VARIANTS[variant]
    straight = train(tiny("straight", tree=tree, steps=16), "name").folder
    recipe = tiny("parts", tree=tree, steps=16)
    _stopped_after(recipe, 7)
    assert remains(train(recipe, "name", resume=True).folder) == remains(straight)
    model = FlowMap.from_pretrained(straight)
    assert isinstance(model, FlowMap)
    sampling = recipe.sampling
    made = sample(model, 4, solver=sampling.solver, grid=sampling.grid)
    assert made.nfe == 2
    assert bool(made.x.isfinite().all())


def test_an_averaged_target_is_not_resumed_without_its_state(tiny: Make) -> None:
    """A checkpoint of a run without an average, resumed with one: refused by the recipe, and by the checkpoint."""
    _stopped_after(tiny("run", tree=ICT, steps=16), 7)
    averaged = tiny("run", tree=VARIANTS["averaged target"], steps=16)
    with pytest.raises(UsageError, match=r"begun with objective.target {'kind': 'same'}, not {'kind': 'average'"):
        train(averaged, "name", resume=True)
    (Path(averaged.out or "") / "recipe.yaml").write_text(dump_recipe(averaged))
    with pytest.raises(UsageError, match=r"state of the objective.*missing"):
        train(averaged, "name", resume=True)


def _denoiser(tiny: Make, **tree: Any) -> Path:
    return train(tiny("denoiser", tree={**DENOISER, **tree}), "name").folder


def test_tuning_starts_from_the_denoiser(tiny: Make) -> None:
    source = _denoiser(tiny)
    notes: list[str] = []
    tree = {**_objective(pairs={"kind": "gap", "stages": 2}, end="clean"), "init": {"run": str(source)}}
    recipe = tiny("tuned", tree=tree, steps=2, ema=[1e9])
    train(recipe.replace(optimiser=recipe.optimiser.replace(lr=1e-12)), "name", watcher=Watcher(note=notes.append))
    assert any(note.startswith(f"weights start from {source}") for note in notes)
    tuned, denoiser = FlowMap.from_pretrained(tmp := Path(recipe.out or "")), FlowMap.from_pretrained(source)
    assert tmp.is_dir()
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.full((4,), 2.0, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(tuned.denoise(x, t), denoiser.denoise(x, t), atol=1e-5)


def test_weights_that_would_mean_something_else_are_refused(tiny: Make) -> None:
    source = _denoiser(tiny)
    tree = {**_objective(pairs={"kind": "gap", "stages": 2}, end="clean"), "init": {"run": str(source)}}
    with pytest.raises(UsageError, match=r"trained with prediction EDM.*this recipe has V"):
        train(tiny("other", tree={**tree, "prediction": "v"}), "name")
    with pytest.raises(UsageError, match=r"the weights of init"):
        train(tiny("wide", tree={**tree, "network": {"width": 16}}), "name")


def test_a_teacher_is_copied_and_asked_from_there(tiny: Make, remains: Remains) -> None:
    source = _denoiser(tiny)
    tree = _objective(
        teacher={"run": str(source)},
        pairs={"kind": "grid", "curriculum": {"kind": "fixed", "count": 6}, "levels": None},
    )
    straight = train(tiny("straight", tree=tree, steps=16), "name").folder
    copies = list((straight / PARTS).iterdir())
    assert len(copies) == 1
    assert len(copies[0].name) == 16
    written = load_recipe(str(straight / "recipe.yaml"))
    assert written.objective.teacher.run == f"{PARTS}/{copies[0].name}"  # type: ignore[attr-defined]  # it has a teacher
    _stopped_after(tiny("parts", tree=tree, steps=16), 7)
    shutil.rmtree(source)  # gone, but the run has its copy
    folder = straight.parent / "parts"
    again = load_recipe(str(folder / "recipe.yaml")).replace(out=str(folder))
    train(again, "name", resume=True)
    assert remains(folder)["model.safetensors"] == remains(straight)["model.safetensors"]


def test_a_second_stage_forgets_nothing_below_the_split(tiny: Make) -> None:
    first = train(tiny("first", tree=_objective(pairs={"kind": "gap", "stages": 2}, end="clean")), "name").folder
    tree = _objective(
        pairs={
            "kind": "gap",
            "stages": 2,
            "levels": {"kind": "log_student_t", "low": 1.0, "high": 80.0},
        },
        end="clean",
        truncation={"run": str(first), "split": 1.0},
    )
    recipe = tiny("second", tree={**tree, "init": {"run": str(first)}})
    lines: list[dict[str, float]] = []
    train(recipe, "name", watcher=Watcher(progress=lambda step, total, numbers: lines.append(dict(numbers))))
    assert {"consistency", "boundary"} <= lines[-1].keys()
    assert find_latest(Path(recipe.out or "") / "checkpoints").path is not None


def test_transport_needs_a_batch(tiny: Make) -> None:
    with pytest.raises(UsageError, match=r"raise training\.batch"):
        train(tiny("one", tree=VARIANTS["transport"], batch=1), "name")


def test_a_curriculum_that_does_not_fit_is_refused_before_the_data_are_read(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"3 stages.*only 2 steps"):
        train(tiny("short", tree=ICT, steps=2), "name")
    assert not (tmp_path / "short").exists()


def _taught(source: Path) -> dict[str, Any]:
    pairs = {"kind": "grid", "curriculum": {"kind": "fixed", "count": 6}, "levels": None}
    return _objective(teacher={"run": str(source)}, pairs=pairs)


def test_a_run_that_failed_before_its_first_line_is_begun_again(tiny: Make, tmp_path: Path) -> None:
    tree = _taught(_denoiser(tiny))
    with pytest.raises(UsageError):
        train(tiny("run", tree={**tree, "data": {"kind": "images", "path": str(tmp_path / "nowhere")}}), "name")
    assert {entry.name for entry in (tmp_path / "run").iterdir()} <= {PARTS, ".lock"}
    assert train(tiny("run", tree=tree), "name").step == 8


def test_a_resumed_run_keeps_its_teacher(tiny: Make, remains: Remains, tmp_path: Path) -> None:
    source = _denoiser(tiny)
    tree = _taught(source)
    tree["objective"]["teacher"]["weights"] = "ema_100"  # of which the run's copy knows nothing
    straight = train(tiny("straight", tree=tree, steps=16), "name").folder
    _stopped_after(tiny("run", tree=tree, steps=16), 7)
    shutil.rmtree(source)
    train(tiny("denoiser", tree={**DENOISER, "training": {"seed": 5}}), "name")  # another one under the same name
    resumed = train(tiny("run", tree=tree, steps=16), "name", resume=True).folder
    assert len(list((resumed / PARTS).iterdir())) == 1
    assert remains(resumed)["model.safetensors"] == remains(straight)["model.safetensors"]
    with pytest.raises(UsageError, match="was trained with objective 'consistency', not 'denoising'"):
        train(tiny("run", tree=DENOISER, steps=16), "name", resume=True)


def test_a_map_is_no_teacher_and_no_start_of_a_denoiser(tiny: Make) -> None:
    folder = train(tiny("map", tree=_objective(pairs={"kind": "gap", "stages": 2}, end="clean")), "name").folder
    with pytest.raises(UsageError, match="is a flow map, whose estimate is no mean"):
        train(tiny("taught", tree=_taught(folder)), "name")
    with pytest.raises(UsageError, match="a denoiser cannot start from it"):
        train(tiny("started", tree={**DENOISER, "init": {"run": str(folder)}}), "name")


def test_what_would_do_nothing_is_refused(tiny: Make) -> None:
    source = _denoiser(tiny)
    progressive = {**DENOISER, "path": {"kind": "vp"}, "time": "identity", "prediction": "v"}
    progressive |= {"objective": {"kind": "progressive", "first": 2}, "sampling": {"grid": {"kind": "uniform"}}}
    with pytest.raises(UsageError, match=r"starts from a finished model; name its run with init\.run=FOLDER"):
        train(tiny("one", tree=progressive), "name")
    boot = {**progressive, "objective": {"kind": "bootstrap", "teacher": {"run": str(source)}}}
    boot |= {"coupling": "optimal_transport", "sampling": {"solver": "consistency", "grid": {"kind": "uniform"}}}
    with pytest.raises(UsageError, match="would do nothing; leave coupling out"):
        train(tiny("two", tree=boot), "name")
