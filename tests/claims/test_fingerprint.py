"""Fingerprints: what makes two runs the same, and which source a recipe reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from suffuse.base.part import Part
from suffuse.claims import arms, fingerprint
from suffuse.claims.arms import measure_identity, model_identity
from suffuse.claims.fingerprint import closure, digest, minimal, modules_of, source_hash
from suffuse.claims.measures import Distance, NoiseErrors
from suffuse.process import VP, SharedTimesteps
from suffuse.sampling import DDIM, DPMSolverPP
from suffuse.training.recipe_files import load_recipe
from suffuse.training.settings import OptimiserSettings


class Inner(Part):
    """A part."""

    kind: Literal["inner"] = "inner"
    width: int = 3


class Outer(Part):
    """A part with a part."""

    kind: Literal["outer"] = "outer"
    inner: Inner = Inner()
    pair: tuple[int, ...] = ()


def test_defaults_do_not_count_so_that_a_new_field_changes_nothing() -> None:
    assert minimal(Outer()) == {"kind": "outer"}
    assert minimal(Outer(inner=Inner(width=4), pair=(1, 2))) == {
        "kind": "outer",
        "inner": {"kind": "inner", "width": 4},
        "pair": [1, 2],
    }


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_parts_inside_parts_are_found() -> None:
    assert modules_of(SharedTimesteps(), (VP(),)) == {"suffuse.process.time_condition", "suffuse.process.vp"}


def test_a_recipe_reaches_its_own_parts_and_no_others() -> None:
    recipe = load_recipe("digits-ddpm")
    reached = closure(modules_of(recipe.network, recipe.path, recipe.objective) | {"suffuse.training.trainer"})
    assert {"suffuse.networks.unet", "suffuse.process.vp", "suffuse.training.ema", "suffuse.base.randomness"} <= {
        *reached
    }
    # Not another network, nor what only saves, reads or samples.
    assert not {"suffuse.networks.dit", "suffuse.models.pretrained", "suffuse.base.files"} & {*reached}
    assert not any(name.startswith("suffuse.sampling") for name in reached)


def test_a_measure_reaches_its_solver_and_no_other() -> None:
    reached = closure(modules_of(Distance(solver=DDIM())) | {*Distance.source})
    assert {"suffuse.sampling.solvers.ddim", "suffuse.metrics.frechet", "suffuse.training.extractor"} <= {*reached}
    assert "suffuse.sampling.solvers.runge_kutta" not in reached
    assert measure_identity(Distance(solver=DPMSolverPP())) != measure_identity(Distance(solver=DDIM()))
    assert measure_identity(NoiseErrors(samples=8))["part"] != measure_identity(NoiseErrors())["part"]


def forget() -> None:
    """What was read of the source."""
    for cache in (fingerprint._tree, fingerprint._code, fingerprint._hash_of):
        cache.cache_clear()


def test_comments_docstrings_and_refusals_do_not_count_and_code_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "suffuse"
    (package / "process").mkdir(parents=True)
    (package / "process" / "__init__.py").write_text("from suffuse.process.one import f\nTable = [f]\n")
    one = package / "process" / "one.py"
    monkeypatch.setattr(fingerprint, "_ROOT", package)

    def hashed(text: str) -> str:
        one.write_text(text)
        forget()
        return source_hash(["suffuse.process.one"])

    plain = hashed('def f(x):\n    return x + "# 1"\n')
    assert (
        hashed('"""What it is."""\n\n# why\ndef f(x):  # how\n    """Doc\n    string."""\n\n    return x + "# 1"\n')
        == plain
    )
    refusing = (
        "from suffuse.base.errors import UsageError\n"
        'def f(x):\n    if x < 0:\n        raise UsageError(\n            f"{x} is negative"\n        )\n'
        '    return x + "# 1"\n'
    )
    assert hashed(refusing) == plain, "where there is a figure, nothing was refused"
    assert hashed(refusing.replace("        raise", "        x = 1\n        raise")) != plain
    assert hashed(refusing.replace("        )\n", "        )\n    else:\n        x = 1\n")) != plain
    own = "class Left(Exception):\n    pass\n\n\n" + refusing.replace("UsageError(", "Left(")
    assert hashed(own) != hashed(own.replace("x < 0", "x < 1")), "what our own code catches decides what goes on"
    assert hashed('def f(x):\n    return x + "# 2"\n') != plain
    assert hashed('def f(x):\n    return x + "" """not a docstring"""\n') != plain
    forget()


def test_what_a_measure_names_counts_wherever_it_is() -> None:
    place = "suffuse.training.decoding"
    assert fingerprint.closure([place]) == ()
    assert place in fingerprint.closure([], [place])
    assert "suffuse.sampling.loop" in fingerprint.closure([], [place])


def test_names_of_a_package_lead_to_their_modules() -> None:
    # `suffuse.process.VP` is made in vp.py; the joint's table `Path` is made by the package itself and leads nowhere.
    assert fingerprint._home("suffuse.process", "VP") == "suffuse.process.vp"
    assert fingerprint._home("suffuse.process", "Path") is None
    assert fingerprint._home("suffuse.sampling", "DDIM") == "suffuse.sampling.solvers.ddim"


def test_what_cannot_change_weights_is_not_part_of_a_model() -> None:
    one = load_recipe("digits-ddpm", ["seed=3", "checkpoint_every=7", "sampling.grid.steps=5", "out=elsewhere"])
    assert model_identity(one) == model_identity(load_recipe("digits-ddpm"))
    for change in ("steps=7", "optimiser.lr=1e-4", "time=constant", "training.ema=[5]"):
        assert model_identity(load_recipe("digits-ddpm", [change])) != model_identity(one)


def test_a_default_that_recipes_leave_unsaid_cannot_change_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = model_identity(load_recipe("digits-ddpm"))
    assert "defaults" not in before, "a default has changed: figures recorded with the old one are stale now"
    monkeypatch.setattr(arms, "OptimiserSettings", lambda: OptimiserSettings(clip=0.1))
    assert model_identity(load_recipe("digits-ddpm")) != before


def test_of_a_file_of_data_the_name_counts_and_not_the_place(tmp_path: Path) -> None:
    here, there = (load_recipe("mnist14-ddpm", [f"data.path={tmp_path}/{place}/a.zip"]) for place in ("x", "y"))
    assert model_identity(here) == model_identity(there)
    assert model_identity(load_recipe("mnist14-ddpm", ["data.path=b.zip"])) != model_identity(here)
