"""Buckets: pictures of several shapes, each cropped to the nearest, and batches that have one shape each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from suffuse.base.errors import UsageError
from suffuse.data import BucketLoader, Buckets, Dataset, Images
from suffuse.data.aspects import nearest_shape, shapes_of_aspects, upright_size
from suffuse.data.buckets import _shares
from suffuse.process import OptimalTransport

ASPECTS = (1.0, 1.5, 2 / 3)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Seven wide, five square and three tall pictures in two classes, each of one grey of its own."""
    sides = [(48, 32)] * 7 + [(40, 40)] * 5 + [(30, 45)] * 3
    for place, (width, height) in enumerate(sides):
        folder = tmp_path / "pictures" / ("even" if place % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (width, height), 10 * place).save(folder / f"{place:02}.png")
    return tmp_path / "pictures"


def loaded(folder: Path, tmp_path: Path, **fields) -> Buckets:
    part = Images(path=folder, **{"size": 16, "aspects": ASPECTS, "multiple": 4, **fields})
    found = part.load_buckets(tmp_path / "cache")
    assert found is not None
    return found


def of_sizes(*counts: int) -> Buckets:
    """Bucket k has pictures of height 4 and width 4 (k + 1); each is one number of its own."""
    parts, start = [], 0
    for place, count in enumerate(counts):
        values = np.arange(start, start + count, dtype=np.uint8)[:, None, None, None]
        parts.append(Dataset.of(f"part{place}", np.broadcast_to(values, (count, 4, 4 * (place + 1), 1)).copy()))
        start += count
    return Buckets(tuple(parts))


def test_shapes_have_about_the_same_area_and_the_sides_asked_for():
    shapes = shapes_of_aspects(512, (1.0, 0.75, 4 / 3, 0.5, 2.0), 64)
    assert shapes == ((512, 512), (576, 448), (448, 576), (704, 384), (384, 704))
    assert all(abs(h * w / 512**2 - 1) < 0.05 for h, w in shapes)
    with pytest.raises(ValueError, match=r"aspects 1 and 1.1 both come to 32x32; leave one out"):
        shapes_of_aspects(32, (1.0, 1.1), 8)
    with pytest.raises(UsageError, match=r"aspects 1 and 1.1 both come to 32x32"):
        Images(path="nowhere", size=8).replace(size=32, aspects=(1.0, 1.1))
    with pytest.raises(UsageError, match="aspects"):
        Images(path="nowhere", size=8).replace(aspects=(float("inf"),))


def test_a_picture_goes_to_the_nearest_proportions():
    sizes = np.array([[100, 100], [140, 100], [100, 190], [0, 0]], np.float32)
    assert nearest_shape(sizes, ((8, 8), (8, 12), (12, 8))).tolist() == [0, 1, 2, -1]


def test_a_picture_that_lies_on_its_side_is_measured_upright(tmp_path):
    picture = Image.new("RGB", (30, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "lying.jpg", exif=exif)
    assert upright_size((tmp_path / "lying.jpg").read_bytes()) == (20, 30)
    assert upright_size(b"no picture") == (0, 0)


def test_pictures_are_cropped_to_their_buckets(pictures, tmp_path):
    found = loaded(pictures, tmp_path)
    assert [part.shape for part in found.parts] == [(1, 16, 16), (1, 12, 20), (1, 20, 12)]
    assert [len(part) for part in found.parts] == [5, 7, 3]
    assert found.main is found.parts[1]
    greys = sorted(int(part.values[row, 0, 0, 0]) for part in found.parts for row in range(len(part)))
    assert greys == [10 * place for place in range(15)], "every picture is in one bucket"
    for part in found.parts:
        assert part.classes == ("even", "odd")
        assert [int(value[0, 0, 0]) // 10 % 2 for value in part.values] == part.labels.tolist()
    assert found.lines() == ("15 samples in buckets: 5 of 16x16, 7 of 20x12, 3 of 12x20",)


def test_squares_of_all_pictures_are_still_there(pictures, tmp_path):
    part = Images(path=pictures, size=16, aspects=ASPECTS, multiple=4)
    assert len(part.load(tmp_path / "cache")) == 15
    plain = part.replace(aspects=())
    assert plain.load(tmp_path / "cache").fingerprint == part.load(tmp_path / "cache").fingerprint
    assert plain.load_buckets(tmp_path / "cache") is None


def test_a_class_of_one_bucket_has_the_same_number_in_all(tmp_path):
    for name, size in (("a", (32, 16)), ("b", (16, 16)), ("c", (32, 16))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", size, "red").save(tmp_path / "pictures" / name / "one.png")
    square, wide = loaded(tmp_path / "pictures", tmp_path, aspects=(1.0, 2.0)).parts
    assert (square.classes, square.labels.tolist()) == (("a", "b", "c"), [1])
    assert (wide.classes, wide.labels.tolist()) == (("a", "b", "c"), [0, 2])


def test_a_broken_picture_is_told_once_and_in_no_bucket(pictures, tmp_path):
    (pictures / "odd" / "broken.png").write_bytes(b"nothing")
    found = loaded(pictures, tmp_path, max_bad=0.5)
    assert len(found) == 15
    with pytest.raises(UsageError, match="1 of 16 pictures cannot be used"):
        loaded(pictures, tmp_path, max_bad=0.0)


def test_captions_stay_with_their_pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for place, size in enumerate([(30, 20), (20, 20), (30, 20)]):
        Image.new("L", size, 50 * place).save(folder / f"{place}.png")
        lines.append(json.dumps({"file_name": f"{place}.png", "text": f"grey {50 * place}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    for part in loaded(folder, tmp_path, size=8, multiple=2).parts:
        assert part.captions == tuple(f"grey {int(value[0, 0, 0])}" for value in part.values)


def test_aspects_want_the_size_of_a_square(tmp_path):
    for size in (None, (16, 24)):
        with pytest.raises(UsageError, match="aspects want one number for size"):
            Images(path=tmp_path, size=8).replace(size=size, aspects=(1.0,))


def test_a_batch_has_one_shape_and_buckets_have_their_share():
    buckets = of_sizes(60, 30, 10)
    loader = BucketLoader(buckets, batch=4, seed=0)
    turns = [loader.turn(step) for step in range(2000)]
    counts = np.bincount([bucket for bucket, _ in turns])
    assert counts.tolist() == [1200, 600, 200], "exactly, after whole cycles"
    early = np.bincount([bucket for bucket, _ in turns[:200]], minlength=3) / 200
    assert abs(early - [0.6, 0.3, 0.1]).max() < 0.12, "mixed, not one after the other"
    for bucket in range(3):
        own = [turn for found, turn in turns if found == bucket]
        assert own == list(range(len(own))), "a bucket's turns are those of its own loader"
    for step in range(20):
        batch = loader.at(step)
        assert batch.x0.shape[3] == 4 * (turns[step][0] + 1)
        assert torch.equal(batch.index, loader.index(step))
        seen = torch.round((batch.x0[:, 0, 0, 0] + 1) * 127.5).long()
        assert torch.equal(seen, batch.index), "numbers are of the whole"


def test_an_epoch_of_each_bucket_sees_every_sample():
    loader = BucketLoader(of_sizes(8, 4), batch=4, seed=1)
    wide = [loader.index(step) for step in range(100) if loader.turn(step)[0] == 0][:2]
    assert sorted(torch.cat(wide).tolist()) == list(range(8))


def test_several_processes_see_together_what_one_sees():
    buckets = of_sizes(9, 5)
    for step in (0, 1, 2, 1500):
        parts = [BucketLoader(buckets, batch=4, seed=3, flip=True, rank=rank, world=2) for rank in range(2)]
        alone = BucketLoader(buckets, batch=4, seed=3, flip=True)
        assert torch.equal(alone.at(step).x0, torch.cat([part.at(step).x0 for part in parts]))
        assert torch.equal(alone.at(step).index, torch.cat([part.at(step).index for part in parts]))


def test_coupled_noise_is_that_of_the_step_in_another_order():
    """The trainer draws by the step, so a bucket must not draw by its own turn: noise would come again."""
    coupled = BucketLoader(of_sizes(9, 5), batch=4, seed=3, coupling=OptimalTransport())
    for step in (3, 4, 5, 6):
        batch = coupled.at(step)
        plain = coupled.draws(step).normal("eps", tuple(batch.x0.shape[1:]))
        order = (batch.eps[:, None] == plain[None]).flatten(2).all(2).float()
        assert torch.equal(order.sum(0), torch.ones(4))
        assert torch.equal(order.sum(1), torch.ones(4))


def test_a_tiny_bucket_is_not_forgotten():
    loader = BucketLoader(of_sizes(200, 1), batch=2, seed=0)
    assert _shares([5000, 1], 1000).tolist() == [1000, 1]
    assert {loader.turn(step)[0] for step in range(1001)} == {0, 1}


def test_grey_and_coloured_buckets_have_the_channels_of_the_whole(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in range(3):
        Image.new("RGB", (16, 16), (200, 10, 10)).save(folder / f"square{place}.png")
        Image.new("L", (32, 16), 90).save(folder / f"wide{place}.png")
    assert [part.shape[0] for part in loaded(folder, tmp_path, aspects=(1.0, 2.0)).parts] == [3, 3]


def test_a_picture_that_the_squares_leave_out_is_in_no_bucket(tmp_path):
    folder = tmp_path / "pictures"
    for name, sizes in (("a", [(16, 16), (40, 20)]), ("b", [(30, 14)])):
        (folder / name).mkdir(parents=True)
        for place, size in enumerate(sizes):
            Image.new("RGB", size, "red").save(folder / name / f"{place}.png")
    found = loaded(folder, tmp_path, aspects=(1.0, 2.0), small="skip")
    assert [(len(part), part.classes) for part in found.parts] == [(1, ("a",)), (1, ("a",))]
    again = loaded(folder, tmp_path, aspects=(1.0, 2.0), small="upscale")
    assert [len(part) for part in again.parts] == [1, 2], "another cache"


def test_a_bucket_of_which_nothing_can_be_decoded_is_none(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in range(3):
        Image.new("RGB", (16, 16), "blue").save(folder / f"{place}.png")
    noise = np.random.default_rng(0).integers(0, 256, (20, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "wide.png")
    whole = (folder / "wide.png").read_bytes()
    (folder / "wide.png").write_bytes(whole[: len(whole) // 2])
    found = loaded(folder, tmp_path, aspects=(1.0, 3.0), max_bad=0.5)
    assert [len(part) for part in found.parts] == [3]


def test_the_same_files_under_other_labels_have_their_own_sizes(tmp_path):
    folder = tmp_path / "pictures"
    for name, size in (("a", (32, 16)), ("b", (16, 16)), ("c", (32, 16))):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", size, "red").save(folder / name / "one.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "b/one.png", "label": "b"}))
    for labels, count in (("auto", 1), ("folders", 3), ("auto", 1)):
        found = loaded(folder, tmp_path, aspects=(1.0, 2.0), labels=labels, max_bad=1.0)
        assert len(found) == count


def test_no_buckets_are_refused():
    with pytest.raises(UsageError, match="buckets need at least one data set"):
        Buckets(())
