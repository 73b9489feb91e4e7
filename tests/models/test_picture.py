"""Pictures beside each sample: what data give, what the network sees of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.data.images import Images
from suffuse.data.shapes import Shapes, form_map, render
from suffuse.models.config import ModelConfig
from suffuse.models.picture import Picture
from suffuse.networks import UNet
from suffuse.process import VP, V
from suffuse.sampling import DDIM, Uniform, sample
from suffuse.training.companions import accompanied, settled

UNET = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4, zero_init=False)
CPU = torch.device("cpu")


def image_of(conditioner: torch.nn.Module, cond: Conditions, n: int) -> Tensor:
    image = conditioner(cond, n).image
    assert isinstance(image, Tensor)
    return image


# What the network sees


def test_it_is_beside_the_sample_with_a_channel_that_says_whether_it_is_there() -> None:
    live = Picture(picture_shape=(1, 8, 8)).build(0, (3, 8, 8))
    seen = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
    image = image_of(live, Conditions.of(picture=seen), 2)
    assert torch.equal(image[:, :1], seen)
    assert torch.equal(image[:, 1:], torch.ones(2, 1, 8, 8))
    hidden = Conditions.of(picture=torch.full_like(seen, torch.nan)).absent()
    assert not image_of(live, hidden, 2).any()
    assert not image_of(live, Conditions(), 2).any()


@pytest.mark.parametrize("resize", ["mean", "nearest"])
def test_in_latents_it_comes_to_their_grid(resize: str) -> None:
    live = Picture(picture_shape=(1, 8, 8), resize=resize).build(0, (4, 4, 4))  # type: ignore[arg-type]
    seen = torch.arange(64.0).reshape(1, 1, 8, 8)
    found = image_of(live, Conditions.of(picture=seen), 1)[0, 0]
    expected = seen[0, 0].reshape(4, 2, 4, 2).mean((1, 3)) if resize == "mean" else seen[0, 0, ::2, ::2]
    assert torch.equal(found, expected)
    with pytest.raises(UsageError, match=r"pictures of \(1, 9, 9\) beside samples of \(4, 4, 4\).* resize them"):
        Picture(picture_shape=(1, 9, 9)).extra_channels((4, 4, 4))


def test_a_model_is_sampled_with_it_and_refuses_other_sizes() -> None:
    part = Picture(picture_shape=(1, 8, 8))
    model = ModelConfig(network=UNET, shape=(3, 8, 8), path=VP(steps=100), prediction=V(), conditioner=part).build()
    assert model.network.in_channels == 5
    how = {"solver": DDIM(), "grid": Uniform(steps=2)}
    one, other = (
        sample(model, 1, cond=Conditions.of(picture=torch.full((1, 1, 8, 8), v)), **how).x for v in (1.0, -1.0)
    )
    assert not torch.allclose(one, other, atol=1e-3)
    with pytest.raises(UsageError, match=r"picture has shape \(1, 3, 8, 8\) .* this model takes \(1, 8, 8\)"):
        sample(model, 1, cond=Conditions.of(picture=torch.zeros(1, 3, 8, 8)), **how)


# Data that give it


def test_shapes_come_with_maps_of_their_forms() -> None:
    part = Shapes(size=32, count=20, objects=2, forms=True)
    data, scene = part.load(), part.scene()
    assert data.fingerprint == part.replace(forms=False).load().fingerprint
    maps = form_map(scene, 32)
    cond = data.batch(torch.tensor([4, 7])).cond
    assert torch.equal(cond.values["picture"], torch.from_numpy(maps[[4, 7]].transpose(0, 3, 1, 2)) / 127.5 - 1)
    bright = render(scene, 32).max(-1) > 140
    assert np.array_equal(maps[..., 0] > 0, bright) or ((maps[..., 0] > 0) != bright).mean() < 0.01
    for row in range(20):
        assert set(np.unique(maps[row])) == {0, *((scene.form[row] + 1) * 85).tolist()}


def folder_of(place: Path, lines: list[dict[str, str]]) -> Path:
    """Four red pictures of several shades, each with a map of half its height in another of two colours."""
    place.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        Image.new("RGB", (16, 16), (50 * number, 0, 0)).save(place / f"{number}.png")
        half = np.zeros((16, 16), np.uint8)
        half[: 4 * number] = 255
        Image.fromarray(half).save(place / f"map{number}.png")
    (place / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


LINES = [{"file_name": f"{n}.png", "text": f"red {n}", "conditioning_image": f"map{n}.png"} for n in range(4)]


@pytest.mark.parametrize("resize", ["smooth", "nearest"])
def test_folders_name_a_second_picture_on_each_line(tmp_path: Path, resize: str) -> None:
    part = Images(
        path=folder_of(tmp_path / "d", LINES), size=6, condition_key="conditioning_image", condition_resize=resize
    )  # type: ignore[call-arg]
    data = part.load(tmp_path / "cache")
    assert len(data) == 4
    assert not data.report.skipped, "second pictures are not unlisted ones"
    batch = data.batch(torch.arange(4), flip=torch.tensor([False, True, False, False]))
    assert batch.cond.values["picture"].shape == (4, 1, 6, 6)
    assert batch.cond.values["picture"][0].max() == -1
    values = set(batch.cond.values["picture"].flatten().tolist())
    assert (values == {-1.0, 1.0}) == (resize == "nearest")
    again = part.load(tmp_path / "cache")
    assert torch.equal(
        again.batch(torch.arange(4)).cond.values["picture"], data.batch(torch.arange(4)).cond.values["picture"]
    )
    plain = part.replace(condition_key=None).load(tmp_path / "cache")
    assert not plain.companions
    assert plain.fingerprint != data.fingerprint
    held, rest = data.split(0.5, 0)
    assert len(held.batch(torch.arange(2)).cond.values["picture"]) == len(rest) == 2


def test_a_missing_or_broken_second_picture_is_named_with_its_line(tmp_path: Path) -> None:
    lines = [*LINES[:3], {**LINES[3], "conditioning_image": "lost.png"}]
    part = Images(path=folder_of(tmp_path / "d", lines), size=8, condition_key="conditioning_image")
    with pytest.raises(
        UsageError, match=r"1 of 4 pictures cannot be used .*second picture is not there: .*line 4: lost"
    ):
        part.load(tmp_path / "cache")
    data = part.replace(max_bad=0.5).load(tmp_path / "cache")
    assert data.captions == ("red 0", "red 1", "red 2")
    (tmp_path / "d" / "map1.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"its second picture cannot be used: .*1\.png"):
        part.load(tmp_path / "cache")
    broken = [*LINES[:3], {"file_name": "3.png", "text": "red"}]
    with pytest.raises(UsageError, match=r"line 4 of .* has conditioning_image None; give the name of a picture"):
        part.replace(path=folder_of(tmp_path / "e", broken)).load(tmp_path / "cache")
    (tmp_path / "e" / "metadata.jsonl").unlink()
    with pytest.raises(UsageError, match=r"no metadata.jsonl; add one, or leave condition_key out"):
        part.replace(path=tmp_path / "e").load(tmp_path / "cache")


def test_the_conditioner_takes_its_shape_from_the_data_and_says_when_there_are_none() -> None:
    data = Shapes(size=16, count=8, forms=True).load()
    part = settled(Picture(), data, Path(), CPU)
    assert part == Picture(picture_shape=(1, 16, 16))
    (beside,) = accompanied([(data, data)], part, Path(), CPU)
    assert beside.batch(torch.arange(2)).cond.values["picture"].shape == (2, 1, 16, 16)
    with pytest.raises(UsageError, match=r"reads a picture of each sample, but data 'shapes16' have none.*forms=true"):
        settled(Picture(), Shapes(size=16, count=8).load(), Path(), CPU)
