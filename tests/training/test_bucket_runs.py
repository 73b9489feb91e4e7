"""Runs on pictures of several shapes: pixels, latents and a whole cascade; samples of any of these shapes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from suffuse.base.errors import UsageError
from suffuse.models.pretrained import load_codec
from suffuse.tasks.generate import Asked, generate
from suffuse.tasks.runs import OpenRun, open_run
from suffuse.training.recipe import Recipe
from suffuse.training.run import Watcher, train
from suffuse.training.signals import Stopped
from suffuse.training.stages import load_stages, train_stages

Make = Callable[..., Recipe]
Remains = Callable[[Path], dict[str, Any]]
SMALL = ("steps=3", "batch=4", "device=cpu", "training.checkpoint_every=100", "training.ema=[50]")
KL = "{kind: kl, channels: 4, multipliers: [1, 1], blocks: 1, groups: 2, attention: false}"
UNET = "{kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, attention_levels: [1], groups: 4}"
PAIRS = {"kind": "grid", "curriculum": {"kind": "doubling", "s0": 2, "s1": 4}}
ASPECTS = "data.aspects=[1.0, 1.5, 0.667]"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "pictures"
    folder.mkdir()
    lines = []
    for place in range(24):
        size = [(60, 40), (48, 48), (40, 60)][place % 3]
        noise = np.random.default_rng(place).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{place:02}.png")
        lines.append(json.dumps({"file_name": f"{place:02}.png", "text": f"picture {place % 3}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "bucket-cache"))


def data(folder: Path, **fields: Any) -> dict[str, Any]:  # Any: YAML values
    plain = {"kind": "images", "path": str(folder), "size": 16, "channels": "rgb", "aspects": [1.0, 1.5, 0.667]}
    return {"data": {**plain, "multiple": 4, **fields}}


def test_pixels_of_several_shapes_are_learned_and_drawn(tiny: Make, pictures: Path) -> None:
    said: list[str] = []
    recipe = tiny(pictures=True, tree=data(pictures))
    done = train(recipe, "run", watcher=Watcher(note=said.append))
    assert "24 samples in buckets: 8 of 16x16, 8 of 20x12, 8 of 12x20" in said
    assert (
        "| data | pictures, 24 samples of 3x16x16, 3x12x20, 3x20x12, no labels |"
        in (done.folder / "README.md").read_text()
    )
    run = open_run(done.folder, device="cpu")
    assert run.shape == (3, 16, 16), "squares, when nothing is asked"
    for height, width in ((20, 12), (32, 8)):
        sized = run.sized(height, width)
        assert generate(sized, 2, run.sampling).x.shape == (2, 3, height, width) == (2, *sized.shape)
    assert generate(run.sized(None, 24), 1, run.sampling).x.shape == (1, 3, 16, 24)
    with pytest.raises(UsageError, match="the image is 17 x 16"):
        run.sized(17, None)


def test_a_run_in_buckets_resumes_to_the_bit(tiny: Make, pictures: Path, remains: Remains) -> None:
    def progress(step: int, total: int, numbers: dict[str, float]) -> None:
        if step == 5:
            signal.raise_signal(signal.SIGTERM)

    tree = data(pictures)
    straight = train(tiny("straight", pictures=True, tree=tree), "name").folder
    with pytest.raises(Stopped):
        train(tiny("parts", pictures=True, tree=tree), "name", watcher=Watcher(progress=progress))
    done = train(tiny("parts", pictures=True, tree=tree), "name", resume=True)
    assert remains(done.folder) == remains(straight)


def test_latents_of_several_shapes(pictures: Path, tmp_path: Path) -> None:
    small = [
        f"data={pictures}",
        "data.size=16",
        ASPECTS,
        "data.multiple=4",
        f"stages.autoencoder.network={KL}",
        f"stages.prior.network={UNET}",
        "stages.prior.conditioner={kind: text, width: 8, depth: 1, heads: 2, length: 8, most: 300}",
        "stages.prior.sampling.grid.steps=2",
    ]
    train_stages(load_stages("shapes-ldm", [*SMALL, f"out={tmp_path / 'run'}", *small]), "run")
    run = open_run(tmp_path / "run", device="cpu")
    assert (run.shape, run.config.shape) == ((3, 16, 16), (4, 8, 8))
    sized = run.sized(12, 20)
    assert sized.config.shape == (4, 6, 10)
    assert generate(sized, 2, run.sampling, asked=Asked(prompts=("picture 1",))).x.shape == (2, 3, 12, 20)


@pytest.fixture(scope="module")
def cascade(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    folder = tmp_path_factory.mktemp("cascade")
    small = [
        f"data={pictures}",
        "data.size=32",
        ASPECTS,
        "stages.a.network={kind: kl, channels: 4, multipliers: [1, 1, 1], blocks: 1, groups: 2, attention: false}",
        "stages.b.network.widths=[8, 8]",
        "stages.b.network.blocks=[1, 1]",
        "stages.b.network.heads=[0, 2]",
        "stages.b.conditioner.compressor.widths=[4, 4, 4]",
        "stages.b.sampling.grid.steps=2",
        "stages.c.network={kind: convnext_prior, width: 8, depth: 1, heads: 2, frequencies: 8}",
        "stages.c.sampling.grid.steps=2",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        train_stages(load_stages("shapes-wuerstchen", [*SMALL, f"out={folder / 'run'}", *small]), "run")
    return open_run(folder / "run", device="cpu")


def test_wuerstchen_learns_and_draws_several_shapes(cascade: OpenRun) -> None:
    asked = Asked(prompts=("picture 2",))
    assert cascade.config.shape == (8, 4, 4)
    wide = cascade.sized(24, 40)
    assert wide.config.shape == (8, 3, 5)
    made = generate(wide, 2, cascade.sampling, asked=asked)
    assert made.x.shape == (2, 3, 24, 40)
    square = generate(cascade.sized(32, 32), 2, cascade.sampling, asked=asked)
    assert torch.equal(square.x, generate(cascade, 2, cascade.sampling, asked=asked).x), "its own size is no other"
    with pytest.raises(UsageError, match="images of 24x44 cannot be made 8 times smaller"):
        cascade.sized(24, 44)


def test_the_codec_of_buckets_is_measured_on_squares(cascade: OpenRun) -> None:
    assert cascade.config.codec is not None
    assert load_codec(cascade.folder / cascade.config.codec).config.shape == (3, 32, 32)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("tree", "match"),
    [
        ({"network": {"kind": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 4}}, "network 'dit' takes one"),
        (
            {"network": {"kind": "unet", "channels": 8, "multipliers": [1, 2, 2, 2], "groups": 4}},
            "needs sides divisible by 8",
        ),
        ({"conditioner": {"kind": "inpainting"}}, "puts pictures of one size beside samples"),
    ],
)
def test_what_takes_one_shape_is_refused(tiny: Make, pictures: Path, tree: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        train(tiny(pictures=True, tree={**data(pictures), **tree}), "run")


def test_a_teacher_of_one_shape_is_refused_before_the_first_step(tiny: Make, pictures: Path) -> None:
    dit = {"network": {"kind": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 4}}
    squares = {"data": {name: value for name, value in data(pictures)["data"].items() if name != "aspects"}}
    teacher = train(tiny("teacher", pictures=True, tree={**squares, **dit}), "teacher").folder
    asks = {"objective": {"kind": "consistency", "teacher": {"run": str(teacher)}, "pairs": PAIRS}}
    asks["sampling"] = {"solver": "consistency"}
    with pytest.raises(UsageError, match=r"network 'dit' takes samples of .* choose another run than .* in the objec"):
        train(tiny("student", pictures=True, tree={**data(pictures), **asks}), "student")


def test_grey_squares_of_coloured_pictures_are_told(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "margins"
    folder.mkdir()
    for place in range(8):
        image = np.full((20, 60, 3), 40 + place, np.uint8)
        image[:, :6] = (255, 0, 0)
        Image.fromarray(image).save(folder / f"{place}.png")
    said: list[str] = []
    grey = data(folder, channels="auto", aspects=[1.0, 3.0])
    train(tiny("grey", pictures=True, tree=grey), "grey", watcher=Watcher(note=said.append))
    assert "all pictures are taken as grey, as their middle squares are; data.channels=rgb keeps colour" in said


def test_other_sizes_are_refused_where_they_mean_nothing(tiny: Make) -> None:
    run = open_run(train(tiny(), "run").folder, device="cpu")
    with pytest.raises(UsageError, match="these samples are points, not images"):
        run.sized(8, 8)
    assert run.sized(None, None) is run
