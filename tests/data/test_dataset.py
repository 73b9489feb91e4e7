"""Dataset, pictures on their way out, and what one word means as data."""

from __future__ import annotations

import numpy as np
import pytest
import rich.style  # noqa: F401  (scikit-learn imports it, and its import draws once from Python's global generator)
import torch
from pydantic import TypeAdapter

from suffuse.base.errors import RunError, UsageError
from suffuse.base.part import parse
from suffuse.data import Data, DataReport, Dataset, Digits, Images, contact_sheet, data_from, to_uint8
from suffuse.data.report import Skipped

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)
LABELS = np.arange(20) % 3


def small(**changes) -> Dataset:
    return Dataset.of("small", PIXELS, **{"labels": LABELS, "classes": ("a", "b", "c"), **changes})


def test_batch_is_scaled_and_in_order():
    batch = small().batch(torch.tensor([3, 0, 3]))
    expected = PIXELS[[3, 0, 3]].transpose(0, 3, 1, 2) / 127.5 - 1
    assert batch.x0.dtype == torch.float32
    assert np.abs(batch.x0.numpy() - expected).max() <= 1.2e-7  # two roundings of float32 below 2
    assert batch.cond.values["label"].tolist() == [0, 0, 0]
    assert batch.cond.present["label"].all()
    assert batch.index.tolist() == [3, 0, 3]


def test_pixels_come_in_and_go_out_unchanged():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x0 = Dataset.of("all", every).batch(torch.tensor([0])).x0
    assert (x0.min(), x0.max()) == (-1, 1)
    assert (to_uint8(x0) == every).all()


def test_flip_mirrors_left_to_right_where_asked():
    data = small()
    before = PIXELS.copy()
    batch = data.batch(torch.tensor([1, 2]), torch.tensor([True, False]))
    assert torch.equal(batch.x0[0], data.batch(torch.tensor([1])).x0[0].flip(2))
    assert torch.equal(batch.x0[1], data.batch(torch.tensor([2])).x0[0])
    assert (before == PIXELS).all()


@pytest.mark.parametrize("index", [[20], [-1]])
def test_indices_out_of_range_are_named(index):
    with pytest.raises(UsageError, match="is not in data 'small', which has 20 samples"):
        small().batch(torch.tensor(index))


def test_split_is_a_partition_that_shares_the_store():
    data = small(captions=[f"picture {n}" for n in range(20)])
    train, held = data.split(0.25, seed=1)
    assert (len(train), len(held)) == (15, 5)
    assert sorted([*train.rows, *held.rows]) == list(range(20))
    assert train.store is data.store
    everything = torch.arange(5)
    assert (to_uint8(held.batch(everything).x0) == PIXELS[held.rows]).all()
    assert held.captions_of(torch.tensor([2])) == (f"picture {held.rows[2]}",)
    assert held.labels.tolist() == LABELS[held.rows].tolist()
    assert (held.values == PIXELS[held.rows]).all()
    assert len({data.fingerprint, train.fingerprint, held.fingerprint}) == 3


def test_split_again_and_by_another_seed():
    data = small()
    assert data.split(0.25, seed=1)[1].rows.tolist() == data.split(0.25, seed=1)[1].rows.tolist()
    assert data.split(0.25, seed=1)[1].rows.tolist() != data.split(0.25, seed=2)[1].rows.tolist()
    inner = data.split(0.5, seed=0)[0].split(0.5, seed=0)[0]
    assert (to_uint8(inner.batch(torch.arange(5)).x0) == PIXELS[inner.rows]).all()
    with pytest.raises(UsageError, match=r"holdout 0.01 of the 20 samples .* choose a share from 0.05 to 0.95"):
        data.split(0.01, seed=0)


def test_points_with_nan_or_infinity_are_refused_by_row():
    points = np.zeros((5, 2))
    for bad in (np.nan, np.inf):
        points[3, 1] = bad
        with pytest.raises(UsageError, match=r"data 'p' hold NaN or infinity in row 3"):
            Dataset.of("p", points)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.arange(19) % 3}, r"labels of shape \(19,\); they must be \(20,\)"),
        ({"labels": LABELS + 1}, "label 3 in row 2; there are 3 classes"),
        ({"captions": ["one"]}, "1 captions for 20 samples"),
    ],
)
def test_inconsistent_data_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        small(**changes)


def test_empty_or_shapeless_data_are_refused():
    for values in (PIXELS[:0], PIXELS[0], np.zeros((3, 4, 4, 1), np.float32)):
        with pytest.raises(UsageError, match="with at least one sample"):
            Dataset.of("bad", values)


def test_captions_that_are_not_there():
    with pytest.raises(UsageError, match="data 'small' have no captions"):
        small().captions_of(torch.tensor([0]))


def test_fingerprint_follows_the_content_alone():
    changed = PIXELS.copy()
    changed[-1, -1, -1, -1] ^= 1
    prints = [
        small().fingerprint,
        Dataset.of("small", changed, labels=LABELS, classes=("a", "b", "c")).fingerprint,
        small(labels=LABELS[::-1]).fingerprint,
        small(classes=("a", "b", "d")).fingerprint,
        small(captions=["x"] * 20).fingerprint,
    ]
    assert len(set(prints)) == 5
    assert Dataset.of("other name", PIXELS, labels=LABELS, classes=("a", "b", "c")).fingerprint == prints[0]


def test_report_speaks_and_comes_back():
    names = [f"{n}\n.png" for n in range(30)]
    report = DataReport(read=5, skipped={"empty file": Skipped.of(names)}, sizes={"8x8": 5}, notes=("a note",))
    assert parse(DataReport, report.dump()) == report
    head, skipped, note = report.lines()
    assert head == "read 5 samples (8x8: 5)"
    assert skipped.startswith("left out, empty file: 30 ('0\\n.png', ")
    assert skipped.endswith("and 20 more)")
    assert note == "a note"


def test_digits_are_scikit_learns():
    data = Digits().load()
    assert (len(data), data.shape, len(data.classes)) == (1797, (1, 8, 8), 10)
    assert data.values[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 0 0 5 13 9 1 0 0, times 255 / 16
    assert data.labels[:10].tolist() == list(range(10))
    larger = Digits(size=16).load()
    assert larger.shape == (1, 16, 16)
    assert abs(larger.values.mean() - data.values.mean()) < 3  # enlarging keeps the mean but for the cut at 0 and 255


# On the way out


def test_exit_rounds_and_cuts():
    x = torch.tensor([-7.0, -1.0, -0.9999, 0.0, 0.0039, 1.0, 1.2]).reshape(1, 1, 1, 7)
    assert to_uint8(x)[0, 0, :, 0].tolist() == [0, 0, 0, 128, 128, 255, 255]
    assert to_uint8(torch.zeros(2, 3, 4, 5, dtype=torch.bfloat16)).shape == (2, 4, 5, 3)


def test_exit_refuses_what_is_no_image():
    x = torch.zeros(3, 1, 2, 2)
    x[1, 0, 0, 0] = torch.nan
    with pytest.raises(RunError, match="image 1 of 3 holds NaN"):
        to_uint8(x)
    with pytest.raises(UsageError, match=r"must have shape \(B, C, H, W\), not \(3, 4\)"):
        to_uint8(torch.zeros(3, 4))


def test_contact_sheet_holds_every_picture_in_order():
    sheet = np.asarray(contact_sheet(PIXELS[:5], columns=2, zoom=2))
    assert sheet.shape == (3 * 8 + 2, 2 * 12 + 1, 3)
    assert (sheet[:8:2, :12:2] == PIXELS[0]).all()
    assert (sheet[9:17:2, 13:25:2] == PIXELS[3]).all()
    assert (sheet[18:, 13:] == 255).all()
    grey = contact_sheet(PIXELS[:, :4, :4, :1])
    assert grey.mode == "L"
    assert grey.height >= 4 * 64  # small pictures are made large enough to see
    with pytest.raises(UsageError, match="a sheet needs pictures"):
        contact_sheet(PIXELS[..., :2])


# One word as data


def test_one_word_is_a_path_or_a_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "p.zip").write_bytes(b"PK")
    assert data_from("pictures") == {"kind": "images", "path": "pictures"}
    assert data_from(str(tmp_path / "p.zip")) == {"kind": "images", "path": str(tmp_path / "p.zip")}
    assert data_from("digits") == {"kind": "digits"}
    adapter = TypeAdapter(Data)
    assert adapter.validate_python(data_from("pictures")) == Images(path="pictures")
    assert adapter.validate_python("rings").kind == "rings"
    (tmp_path / "digits").mkdir()
    with pytest.raises(UsageError, match=r"both a kind of data and a folder here; write data=./digits"):
        data_from("digits")
    assert data_from("./digits") == {"kind": "images", "path": "./digits"}


def test_one_word_that_is_nothing(tmp_path):
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(
        UsageError, match=r"neither a folder or zip that is there nor a kind of data; did you mean 'digits'"
    ):
        data_from("digit")
    with pytest.raises(UsageError, match="kinds: digits, hub, images, low_rank, mixture, outliers, rings, shapes"):
        data_from(str(tmp_path / "file.txt"))


@pytest.mark.parametrize("plain", ["digits", "shapes", "mixture", "rings", {"kind": "images", "path": "x"}])
def test_parts_survive_plain_data(plain):
    adapter = TypeAdapter(Data)
    part = adapter.validate_python(plain)
    assert adapter.validate_python(part.dump()) == part
