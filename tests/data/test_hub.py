"""Data sets in the format of Hugging Face `datasets`, made in memory and saved to disk."""

from __future__ import annotations

import builtins
import io

import numpy as np
import pytest
from PIL import Image

from suffuse.base.errors import UsageError
from suffuse.data import HubImages

datasets = pytest.importorskip("datasets")


def png(value: int) -> dict[str, object]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def saved(tmp_path):
    """A data set with an image, a class, a number and a text for each row, saved to disk."""

    def save(values=range(6), **columns):
        features = {
            "picture": datasets.Image(),
            "animal": datasets.ClassLabel(names=["dog", "cat"]),
            "number": datasets.Value("int64"),
            "words": datasets.Value("string"),
        }
        data = {
            "picture": [png(value) for value in values],
            "animal": [value % 2 for value in values],
            "number": [10 - value for value in values],
            "words": [f"text {value}" for value in values],
            **columns,
        }
        table = datasets.Dataset.from_dict(data, features=datasets.Features(features))
        table.save_to_disk(tmp_path / "set")
        return tmp_path / "set"

    return save


@pytest.fixture
def load(tmp_path):
    return lambda path, **settings: HubImages(path=str(path), **settings).load(tmp_path / "cache")


def test_pictures_classes_and_captions(saved, load):
    data = load(saved(), label="animal", caption="words")
    assert data.name == "set"
    assert data.classes == ("dog", "cat")  # the data set's own order
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.captions[2] == "text 2"
    assert data.values[:, 0, 0, 0].tolist() == list(range(6))
    assert data.shape == (1, 4, 4)


def test_number_and_text_columns_as_classes(saved, load):
    path = saved()
    assert load(path, label="number").classes == ("5", "6", "7", "8", "9", "10")
    assert load(path, label="words").labels.tolist() == list(range(6))
    assert load(path).labels is None


def test_the_cache_is_found_again(saved, load, monkeypatch):
    path = saved()
    first = load(path)
    monkeypatch.setattr("suffuse.data.ingest.decode", None)  # decoding again would fail
    assert load(path).fingerprint == first.fingerprint


def test_splits(saved, load, tmp_path):
    whole = datasets.load_from_disk(saved())
    datasets.DatasetDict({"train": whole, "test": whole.select([1])}).save_to_disk(tmp_path / "splits")
    assert len(load(tmp_path / "splits", split="test")) == 1
    with pytest.raises(UsageError, match=r"split 'tset' does not exist; did you mean 'test'\?"):
        load(tmp_path / "splits", split="tset")


def test_bad_rows_are_counted(saved, load):
    path = saved(picture=[*(png(value) for value in range(5)), {"bytes": b"no picture", "path": None}])
    with pytest.raises(UsageError, match=r"1 of 6 pictures cannot be used .*not a picture: 1 \('row 5'\)"):
        load(path)
    data = load(path, max_bad=0.5, label="number")
    assert len(data) == 5
    assert data.classes == ("6", "7", "8", "9", "10")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": "pictur"}, "picture column 'pictur' does not exist; did you mean 'picture'"),
        ({"label": "animals"}, "column 'animals' does not exist; did you mean 'animal'"),
        ({"caption": "number"}, "row 0 of 'number' is not a text"),
    ],
)
def test_wrong_columns_are_named(saved, load, settings, message):
    with pytest.raises(UsageError, match=message):
        load(saved(), **settings)


def test_rows_without_a_label_are_named(saved, load):
    with pytest.raises(UsageError, match="row 3 of 'animal' has no label but -1"):
        load(saved(animal=[0, 1, 0, -1, 0, 1]), label="animal")


def test_a_folder_that_is_no_data_set(tmp_path, load):
    with pytest.raises(UsageError, match="cannot load data set"):
        load(tmp_path)


def test_a_missing_package_is_said_before_any_work(monkeypatch, load):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"needs the package datasets.*pip install 'suffuse\[datasets\]'"):
        load("anything")
