"""Shapes: the judge reads back what was drawn, and nothing else passes it."""

from __future__ import annotations

import numpy as np
import pytest

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.data import Shapes, read_shapes
from suffuse.data.shapes import COLOURS, FORMS, PLACES, render


@pytest.mark.parametrize(("objects", "size"), [(1, 8), (1, 32), (1, 64), (2, 16), (2, 32)])
def test_the_judge_reads_back_what_was_drawn(objects, size):
    scene = Shapes(size=size, count=600, seed=5, objects=objects).scene()
    found = read_shapes(render(scene, size), objects)
    assert found.says(scene.captions()).mean() >= 0.995
    if objects == 1:
        assert (found.label == scene.label).mean() >= 0.995
        # In pixels; a quarter is what rounding to 8 bits and the anti-aliased triangle's corners cost.
        for read, drawn in ((found.x, scene.x), (found.y, scene.y), (found.radius, scene.radius)):
            assert np.abs(read - drawn).max() * size < 0.25


def test_captions_and_labels_say_what_is_drawn():
    """An outside look at the pixels, without the judge: the first object's half holds its colour alone."""
    part = Shapes(size=32, count=400, seed=1, objects=2)
    data = part.load()
    rgb = {"red": 0, "green": 1, "blue": 2}
    halves = {"left of": np.s_[:, :16], "right of": np.s_[:, 16:], "above": np.s_[:16], "below": np.s_[16:]}
    checked = set()
    for image, caption in zip(data.values, data.captions, strict=True):
        for place in PLACES:
            first, _, second = caption.partition(f" {place} ")
            if second and first.split()[1] in rgb and second.split()[1] in rgb:
                half = image[halves[place]].reshape(-1, 3).astype(int).sum(0)
                assert half.argmax() == rgb[first.split()[1]]
                assert np.count_nonzero(half) == 1
                checked.add(place)
    assert checked == set(PLACES)


def test_classes_are_form_and_colour_and_all_occur():
    data = Shapes(size=16, count=2000).load()
    assert len(data.classes) == len(FORMS) * len(COLOURS)
    counts = np.bincount(data.labels, minlength=18)
    assert counts.min() > 2000 / 18 * 0.6  # 4 standard deviations below the mean
    assert all(caption == f"a {data.classes[label]}" for caption, label in zip(data.captions, data.labels, strict=True))


def test_forms_have_equal_area_and_stay_inside():
    part = Shapes(size=48, count=300, seed=2)
    scene = part.scene()
    images = render(scene, 48).max(-1) / 255
    area = images.sum((1, 2)) / (np.pi * (scene.radius[:, 0] * 48) ** 2)
    assert np.abs(area - 1).max() < 0.02  # anti-aliasing cuts the triangle's corners
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert border.max() < 0.8  # an apex at the very edge covers three quarters of its pixel's line


def test_edges_are_anti_aliased():
    levels = np.unique(Shapes(size=32, count=20).load().values)
    assert len(levels) > 50


def test_picture_i_does_not_depend_on_the_count():
    few, many = Shapes(count=5, seed=3).load(), Shapes(count=50, seed=3).load()
    assert (few.values == many.values[:5]).all()
    assert few.captions == many.captions[:5]
    assert Shapes(count=5, seed=4).load().fingerprint != few.fingerprint


def test_either_order_of_the_objects_is_right_and_a_false_caption_is_not():
    scene = Shapes(size=32, count=300, seed=7, objects=2).scene()
    found = read_shapes(render(scene, 32), 2)
    assert found.says(scene.reversed().captions()).all()
    swapped = [
        " ".join([*words[:1], words[-2], *words[2:-2], words[1], words[-1]])
        for words in map(str.split, scene.captions())
    ]
    assert not found.says(swapped).any()  # the two colours changed places


def test_the_judge_refuses_what_is_no_such_picture():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    assert not read_shapes(noise).legible.any()
    assert not read_shapes(np.zeros((2, 32, 32, 3), np.uint8)).legible.any()
    pairs = render(Shapes(size=32, count=20, objects=2).scene(), 32)
    assert not read_shapes(pairs, 1).legible.any()
    singles = render(Shapes(size=32, count=20).scene(), 32)
    assert not read_shapes(singles, 2).legible.any()
    assert not read_shapes(singles // 4).legible.any()  # a shadow of a shape


def test_the_judge_bears_a_models_noise():
    scene = Shapes(size=32, count=300, seed=8).scene()
    noise = np.random.default_rng(1).normal(0, 4, (300, 32, 32, 3))  # an 8-bit deviation of 4: faint to the eye
    noisy = np.clip(render(scene, 32) + noise, 0, 255).astype(np.uint8)
    assert (read_shapes(noisy).form == scene.form).mean() >= 0.995
    assert (read_shapes(noisy).colour == scene.colour).mean() >= 0.995


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match="size 15 is too small to tell forms apart; objects = 2 needs 16"):
        parse(Shapes, {"size": 15, "objects": 2})
    with pytest.raises(UsageError, match=r"square pictures \(N, H, H, 3\), not \(1, 8, 8, 1\)"):
        read_shapes(np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(UsageError, match="1 captions for 2 pictures"):
        read_shapes(np.zeros((2, 8, 8, 3), np.uint8)).says(["a red circle"])
