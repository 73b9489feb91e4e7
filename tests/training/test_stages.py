"""Stages: each a run of its own, skipped when nothing changed, refused when something did, resumed where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from suffuse.base.errors import UsageError
from suffuse.tasks.generate import Asked, generate
from suffuse.tasks.runs import open_run
from suffuse.training.recipe_files import load_recipe
from suffuse.training.run import Watcher, train
from suffuse.training.signals import Stopped
from suffuse.training.stages import Staged, has_stages, load_stages, train_stages

TREE: dict[str, Any] = {
    "learns": "stages",
    "about": "two tiny stages",
    "data": {"kind": "shapes", "size": 8, "count": 40},
    "training": {"batch": 4, "ema": [100], "device": "cpu", "checkpoint_every": 2},
    "stages": {
        "squeeze": {
            "learns": "codec",
            "network": {
                "kind": "kl",
                "channels": 4,
                "multipliers": [1, 2],
                "blocks": 1,
                "latent_channels": 2,
                "groups": 2,
                "attention": False,
            },
            "training": {"steps": 4},
        },
        "draw": {
            "codec": {"run": "stage:squeeze", "std": 1.0},
            "network": {"kind": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 2},
            "path": "flow",
            "prediction": "flow",
            "conditioner": {"kind": "text", "width": 8, "depth": 1, "heads": 2, "length": 6, "most": 300},
            "training": {"steps": 5},
            "sampling": {"solver": "ddim", "grid": {"kind": "uniform", "steps": 2}},
        },
    },
}
Make = Callable[..., Staged]


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """staged("name", "stages.draw.training.steps=6", ...) -> the tiny recipe with overrides, its run in that folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.dump(TREE, sort_keys=False))

    def make(name: str = "run", *overrides: str) -> Staged:
        return load_stages(str(file), [f"out={tmp_path / name}", *overrides])

    return make


def heard(staged: Staged, *, resume: bool = False) -> list[str]:
    """Train; all that was said of stages."""
    said: list[str] = []
    train_stages(staged, "tiny", resume=resume, watcher=Watcher(note=said.append, begins=said.append))
    return [line for line in said if line.startswith("stage")]


def test_the_run_is_its_last_stage_and_a_whole_pipeline(staged: Make, tmp_path: Path) -> None:
    assert heard(staged()) == ["stage 1 of 2, squeeze", "stage 2 of 2, draw"]
    shutil.rmtree(tmp_path / "run" / "stages"), "nothing of them is needed"
    moved = shutil.move(tmp_path / "run", tmp_path / "moved")
    run = open_run(moved)
    made = generate(run, 3, run.sampling, asked=Asked(prompts=("a red circle",)))
    assert made.x.shape == (3, 3, 8, 8)
    assert made.captions == ("a red circle",) * 3
    told = generate(run, 3, run.sampling)
    captions = load_recipe(str(Path(moved) / "recipe.yaml")).data.load().captions
    assert captions is not None
    assert told.captions == captions[:3], "without prompts it draws what its data say"


def test_finished_stages_are_left_as_they_are(staged: Make, tmp_path: Path) -> None:
    heard(staged())
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert heard(staged(), resume=True) == [
        "stage 1 of 2, squeeze: finished before",
        "stage 2 of 2, draw: finished before",
    ]
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights
    again = load_stages(str(tmp_path / "run" / "stages.yaml"), [f"out={tmp_path / 'run'}"])
    assert heard(again, resume=True)[1].endswith("finished before"), "its own file says the same"


@pytest.mark.parametrize("where", ["squeeze", "draw"])
def test_killed_in_any_stage_it_goes_on_to_the_same_end(staged: Make, tmp_path: Path, where: str) -> None:
    heard(staged("whole"))
    names: list[str] = []

    def stop(step: int, total: int, numbers: dict[str, float]) -> None:
        if names[-1].endswith(where) and step == 3:
            raise Stopped(15)

    watcher = Watcher(begins=names.append, progress=stop)
    with pytest.raises(Stopped):
        train_stages(staged("cut"), "tiny", watcher=watcher)
    heard(staged("cut"), resume=True)
    both = [open_run(tmp_path / name) for name in ("whole", "cut")]
    for one, two in zip(both[0].model.state_dict().values(), both[1].model.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_a_changed_stage_makes_the_later_ones_stale_and_is_named(staged: Make, tmp_path: Path) -> None:
    heard(staged())
    with pytest.raises(UsageError, match=r"stage 'squeeze' .* so that 'squeeze', 'draw' would be stale"):
        heard(staged("run", "stages.squeeze.training.steps=6"), resume=True)
    with pytest.raises(UsageError, match=r"stage 'draw' .* so that 'draw' would be stale.*RECIPE:draw"):
        heard(staged("run", "stages.draw.optimiser.lr=3e-4"), resume=True)
    with pytest.raises(UsageError, match="stage 'squeeze'"):
        heard(staged("run", "data.count=41"), resume=True)
    shutil.copyfile(tmp_path / "run" / "model.safetensors", tmp_path / "run" / "stages/squeeze/model.safetensors")
    with pytest.raises(UsageError, match="stage 'squeeze'"):
        heard(staged(), resume=True)


def test_a_refused_resume_changes_nothing(staged: Make, tmp_path: Path) -> None:
    heard(staged())
    before = (tmp_path / "run" / "stages.yaml").read_text()
    with pytest.raises(UsageError, match="would be stale"):
        heard(staged("run", "stages.squeeze.optimiser.lr=3e-4"), resume=True)
    assert (tmp_path / "run" / "stages.yaml").read_text() == before
    assert all(line.endswith("finished before") for line in heard(staged(), resume=True))


def test_a_start_that_was_refused_can_be_made_again(staged: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"stage 'squeeze': .*cannot be halved"):
        heard(staged("run", "size=9"))
    assert heard(staged()) == ["stage 1 of 2, squeeze", "stage 2 of 2, draw"]
    with pytest.raises(UsageError, match="patch"):
        heard(staged("other", "size=12", "stages.draw.network.patch=4"))
    mended = heard(staged("other", "size=12"), resume=True)
    assert mended == ["stage 1 of 2, squeeze: finished before", "stage 2 of 2, draw"]


def test_what_changes_no_weight_makes_nothing_stale(staged: Make, tmp_path: Path) -> None:
    heard(staged())
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    changes = ("training.log_every=5", "training.device=auto", "stages.draw.sampling.grid.steps=3")
    assert heard(staged("run", *changes), resume=True) == [
        "stage 1 of 2, squeeze: finished before",
        "stage 2 of 2, draw",
    ]
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights
    recipe = load_recipe(str(tmp_path / "run" / "recipe.yaml"))
    assert (recipe.training.log_every, recipe.sampling.grid.steps) == (5, 3)  # type: ignore[union-attr]
    assert all(line.endswith("finished before") for line in heard(staged("run", *changes), resume=True))
    longer = (*changes, "stages.draw.training.steps=7")
    assert heard(staged("run", *longer), resume=True) == [
        "stage 1 of 2, squeeze: finished before",
        "stage 2 of 2, draw",
    ]
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")).training.steps == 7
    with pytest.raises(UsageError, match=r"stage 'squeeze' .* would be stale"):
        heard(staged("run", "stages.squeeze.training.steps=7"), resume=True)


def test_a_finished_stage_without_checkpoints_is_used_and_never_trained_anew(staged: Make, tmp_path: Path) -> None:
    heard(staged())
    for place in (tmp_path / "run", tmp_path / "run" / "stages" / "squeeze"):
        shutil.rmtree(place / "checkpoints")
    weights = (tmp_path / "run" / "stages" / "squeeze" / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="has a model but no whole checkpoint to go on from"):
        heard(staged("run", "training.log_every=5"), resume=True)
    assert (tmp_path / "run" / "stages" / "squeeze" / "model.safetensors").read_bytes() == weights
    assert len(heard(staged(), resume=True)) == 2, "as it was asked for at first it is finished"
    (tmp_path / "run" / "stages" / "squeeze" / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"stage 'squeeze' is finished, but its weights .* are gone; bring them back"):
        heard(staged(), resume=True)


def test_folders_that_are_named_by_chance_decide_nothing(
    staged: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard(staged())
    monkeypatch.chdir(tmp_path)
    for name in ("text", "dit", "flow", "cpu"):
        (tmp_path / name).mkdir()
    assert all(line.endswith("finished before") for line in heard(staged(), resume=True))
    with pytest.raises(UsageError, match=r"stage 'draw' in .* was trained with another recipe"):
        heard(staged("run", "stages.draw.conditioner={kind: text, tokenizer: ~nobody/x}"), resume=True)


def test_a_stage_whose_ground_is_gone_is_told_before_any_work(staged: Make, tmp_path: Path) -> None:
    heard(staged())
    shutil.rmtree(tmp_path / "run" / "stages" / "squeeze")
    with pytest.raises(UsageError, match=r"stage 'draw' .* was trained on stage 'squeeze', which is not finished"):
        heard(staged(), resume=True)
    assert not (tmp_path / "run" / "stages" / "squeeze").exists()


def test_a_run_beside_the_stages_counts_with_its_content(staged: Make, tmp_path: Path) -> None:
    def squeezed(steps: int) -> None:
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        train(load_recipe(f"{tmp_path / 'tiny.yaml'}:squeeze", [f"steps={steps}", f"out={tmp_path / 'other'}"]), "x")

    squeezed(2)
    other = f"stages.draw.codec.run={tmp_path / 'other'}"
    heard(staged("run", other))
    assert all(line.endswith("finished before") for line in heard(staged("run", other), resume=True))
    squeezed(3)
    with pytest.raises(UsageError, match=r"stage 'draw' .* would be stale"):
        heard(staged("run", other), resume=True)
    shutil.rmtree(tmp_path / "other")
    longer = heard(staged("run", other, "stages.draw.training.steps=6"), resume=True)
    assert longer[-1] == "stage 2 of 2, draw", "it has its copy: what it was begun from is not asked again"


def test_a_later_stage_that_cannot_be_is_refused_before_the_first(staged: Make, tmp_path: Path) -> None:
    for wrong, words in (
        ("data=digits", "stage 'draw': .*reads captions, but data 'digits' have none"),
        (f"stages.draw.codec.run={tmp_path / 'nowhere'}", "stage 'draw': codec .* cannot be opened"),
        (
            f"stages.draw.conditioner={{kind: frozen_text, model: {tmp_path / 'nowhere'}}}",
            "stage 'draw': .*text model",
        ),
    ):
        with pytest.raises(UsageError, match=words):
            heard(staged("wrong", wrong))
        assert not (tmp_path / "wrong").exists()


def test_a_stage_by_itself_says_what_it_builds_on(staged: Make, tmp_path: Path) -> None:
    staged()
    with pytest.raises(UsageError, match=r"'stage:squeeze' is a stage .* train RECIPE:squeeze first"):
        train(load_recipe(f"{tmp_path / 'tiny.yaml'}:draw", [f"out={tmp_path / 'alone'}"]), "alone")
    assert not (tmp_path / "alone").exists()


def test_overrides_are_for_all_stages_or_for_one(staged: Make) -> None:
    found = staged("run", "steps=7", "stages.draw.training.batch=2", "size=16")
    assert [(r.training.steps, r.training.batch) for r in found.stages.values()] == [(7, 4), (7, 2)]
    assert {r.data.dump()["size"] for r in found.stages.values()} == {16}
    with pytest.raises(UsageError, match=r"stage 'drew' does not exist.*did you mean 'draw'"):
        staged("run", "stages.drew.training.steps=3")
    with pytest.raises(UsageError, match=r"names no key of the stage; write stages\.draw\.training\.steps=200"):
        staged("run", "stages.draw=3")


def test_a_stage_builds_on_one_before_it(tmp_path: Path) -> None:
    def load(**codecs: str) -> Staged:
        tree = json.loads(json.dumps(TREE))
        tree["stages"]["draw"]["codec"]["run"] = codecs["draw"]
        file = tmp_path / "wrong.yaml"
        file.write_text(yaml.dump(tree, sort_keys=False))
        return load_stages(str(file))

    with pytest.raises(UsageError, match="stage 'draw' builds on 'draw', which is not before it"):
        load(draw="stage:draw")
    with pytest.raises(UsageError, match="stage 'draw' builds on 'squeze'; did you mean 'squeeze'"):
        load(draw="stage:squeze")


def test_a_folder_that_is_there_is_not_overwritten(staged: Make, tmp_path: Path) -> None:
    heard(staged())
    with pytest.raises(UsageError, match="exists already; add --resume"):
        heard(staged())
    with pytest.raises(UsageError, match="no run with stages to resume"):
        heard(staged("elsewhere"), resume=True)
    wrong = staged("other", "stages.draw.conditioner=none", "stages.draw.sampling.guidance={kind: cfg, scale: 2}")
    with pytest.raises(UsageError, match=r"stage 'draw': .*needs a conditional model"):
        train_stages(replace(wrong, out=str(tmp_path / "other")), "x")
    assert has_stages(str(tmp_path / "tiny.yaml"))
    with pytest.raises(UsageError, match="this recipe has stages"):
        load_recipe(str(tmp_path / "tiny.yaml"))


def test_captions_that_are_missing_empty_or_long_are_told(staged: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reads captions, but data 'digits' have none"):
        heard(staged("digits", "data=digits"))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rows = []
    for place in range(4):
        Image.fromarray(np.full((8, 8, 3), 60 * place, np.uint8)).save(pictures / f"{place}.png")
        rows.append({"file_name": f"{place}.png", "text": "a dog" if place == 2 else "", "spaces": " "})
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = (f"data={pictures}", "data.size=8", "data.channels=rgb")
    with pytest.raises(UsageError, match=r"all 4 of data 'pictures' are empty; write some, name the key"):
        heard(staged("empty", *folder, "data.caption_key=spaces"))
    assert not (tmp_path / "empty" / "squeeze").exists(), "told before the first stage"
    said: list[str] = []
    train_stages(staged("some", *folder), "x", watcher=Watcher(note=said.append))
    assert any("captions that are empty stand for no text: 3 ('0.png', '1.png', '3.png')" in line for line in said)
    said.clear()
    train_stages(staged("long", "stages.draw.conditioner.length=2"), "x", watcher=Watcher(note=said.append))
    assert any("captions are longer than 2 tokens and lose their end ('a" in line for line in said)
