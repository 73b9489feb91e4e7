"""The cache of decoded pictures: found again, never half, never mistaken for another."""

from __future__ import annotations

import os
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from suffuse.base.errors import RunError, UsageError
from suffuse.data import Images
from suffuse.data.cache import ArrayFile


def tree(root: Path, values: dict[str, int]) -> Path:
    """A folder of pictures (bitmaps: all of one length), each of one grey."""
    for name, value in values.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(root / name)
    return root


def packed(folder: Path) -> Path:
    """The same as a zip beside the folder."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in sorted(folder.rglob("*.bmp")):
            archive.write(path, path.relative_to(folder))
    return folder.with_suffix(".zip")


def many(count: int) -> dict[str, int]:
    return {f"{number:03}.bmp": number for number in range(count)}


@pytest.fixture
def load(tmp_path):
    return lambda path, **settings: Images(path=path, **settings).load(tmp_path / "cache")


def caches(root: Path) -> list[Path]:
    return sorted((root / "cache").glob("*/decoded"))


def test_the_cache_is_found_again_without_decoding(tmp_path, load, monkeypatch):
    path = packed(tree(tmp_path / "data", {"cat/a.bmp": 1, "dog/b.bmp": 2}))
    first = load(path)
    monkeypatch.setattr("suffuse.data.ingest.decode", None)  # decoding again would fail
    again = load(path)
    moved = load(path.rename(tmp_path / "data (1).zip").rename(tmp_path / "deep.zip").rename(path))
    for data in (again, moved):
        assert data.fingerprint == first.fingerprint
        assert (data.values == first.values).all()
        assert data.labels.tolist() == [0, 1]
        assert data.report == first.report
    assert not again.store.flags.writeable


def test_settings_and_content_have_caches_of_their_own(tmp_path, load):
    root = tree(tmp_path / "data", many(3))
    prints = {load(root).fingerprint, load(root, size=2).fingerprint, load(root, channels="rgb").fingerprint}
    tree(root, {"001.bmp": 77})
    os.utime(root / "001.bmp", ns=(1, 1))
    prints.add(load(root).fingerprint)
    assert len(prints) == len(caches(tmp_path)) == 4


def test_the_fingerprint_is_of_the_content_not_of_the_files(tmp_path, load):
    folder = load(tree(tmp_path / "x", many(3)))
    assert folder.fingerprint == load(packed(tree(tmp_path / "y", many(3)))).fingerprint
    assert folder.fingerprint != load(packed(tree(tmp_path / "z", many(4)))).fingerprint


@pytest.mark.parametrize("damage", ["cut", "gone", "unsealed"])
def test_a_damaged_cache_is_named_and_made_again(tmp_path, load, damage):
    root = tree(tmp_path / "data", many(3))
    first = load(root)
    values = first.values.copy()  # the map would change with its file
    (folder,) = caches(tmp_path)
    if damage == "cut":
        with open(folder / "images.npy", "r+b") as file:
            file.truncate(150)
    else:
        (folder / {"gone": "facts.json", "unsealed": "manifest.json"}[damage]).unlink()
    again = load(root)
    assert (again.values == values).all()
    assert any("was damaged and is made again" in line for line in again.report.lines())
    assert load(root).report == first.report


def test_failure_leaves_nothing_behind(tmp_path, load):
    root = tree(tmp_path / "data", many(1))
    (root / "000.bmp").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="not a picture"):
        load(root)
    assert [path for path in (tmp_path / "cache").rglob("*") if not path.is_dir()] == []


def test_leftovers_of_a_killed_writer_are_removed(tmp_path, load):
    root = tree(tmp_path / "data", many(3))
    load(root)
    (folder,) = caches(tmp_path)
    folder.rename(folder.with_name(".staging-decoded-1-0123abcd"))
    load(root)
    assert [path.name for path in folder.parent.iterdir()] == ["decoded"]


def test_folders_of_equal_names_sizes_and_times_are_not_confused(tmp_path, load):
    found = []
    for number in (1, 2):
        root = tree(tmp_path / str(number) / "data", {"a.bmp": number})
        os.utime(root / "a.bmp", ns=(0, 0))  # as reproducible archives unpack
        found.append(load(root).values.max())
    assert found == [1, 2]


def test_racing_readers_share_one_cache(tmp_path, load):
    root = tree(tmp_path / "data", many(50))
    found, barrier = [], threading.Barrier(3)

    def work() -> None:
        barrier.wait()
        found.append(load(root).fingerprint)

    # Threads, not processes: quicker, and they meet at the same rename.
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == len(caches(tmp_path)) == 1


def test_an_unwritable_cache_is_a_failed_run(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(RunError, match=r"cannot write .*cache"):
        Images(path=tree(tmp_path / "data", many(1))).load(tmp_path / "cache")


def test_default_cache_follows_xdg(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    Images(path=tree(tmp_path / "data", many(1))).load()
    assert len(list((tmp_path / "xdg" / "suffuse" / "data").iterdir())) == 1


def test_pixel_file_equals_numpys_own(tmp_path):
    """Outside truth for the header that grows in place: numpy reads back what numpy would have written."""
    pictures = np.random.default_rng(0).integers(0, 256, (1500, 3, 5, 3), dtype=np.uint8)
    pictures[:1300] = pictures[:1300, :, :, :1]  # more grey ones than are widened at once
    with ArrayFile(tmp_path / "images.npy") as pixels:
        for number, picture in enumerate(pictures):
            pixels.add(picture[..., :1] if number < 1300 else picture)
    np.save(tmp_path / "numpys.npy", pictures)
    assert (np.load(tmp_path / "images.npy", mmap_mode="r") == pictures).all()
    assert (tmp_path / "images.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()
