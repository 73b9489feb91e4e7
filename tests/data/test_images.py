"""Folders and zips of pictures: classes, captions, faults."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from suffuse.base.errors import UsageError
from suffuse.data import Images, ZipLimits
from suffuse.data.sources import open_source

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def png(value: int = 0, size: int = 4, colour: bool = False) -> bytes:
    """A picture of one grey, or of a colour."""
    pixels = np.full((size, size, 3), value, np.uint8)
    pixels[..., 1] += colour
    return encoded(pixels)


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tree(root: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def packed(path: Path, contents: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def many(count: int, prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}{number:03}.png": png(number) for number in range(count)}


@pytest.fixture
def load(tmp_path):
    def load_images(path: Path, **settings):
        return Images(path=path, **settings).load(tmp_path / "cache")

    return load_images


@pytest.fixture(params=["folder", "zip"])
def pack(request, tmp_path):
    """The same contents as a folder or as a zip."""
    if request.param == "folder":
        return lambda contents: tree(tmp_path / "data", contents)
    return lambda contents: packed(tmp_path / "data.zip", contents)


# Classes and captions


def test_class_folders(pack, load):
    data = load(pack({"dog/b.png": png(2), "cat/sub/a.png": png(1), "cat/c.png": png(3)}))
    assert (data.name, data.classes, data.captions) == ("data", ("cat", "dog"), None)
    assert data.labels.tolist() == [0, 0, 1]
    assert data.values[:, 0, 0, 0].tolist() == [3, 1, 2]
    assert data.shape == (1, 4, 4)


def test_numbered_classes_are_in_the_order_of_numbers(pack, load):
    assert load(pack({f"{n}/a.png": png(n) for n in (0, 2, 10)})).classes == ("0", "2", "10")


def test_flat_pictures_have_no_labels(pack, load):
    data = load(pack(many(3)))
    assert (data.labels, data.classes, len(data)) == (None, (), 3)


def test_a_folder_around_everything_is_looked_through(pack, load):
    assert load(pack({"all/cat/a.png": png(), "all/dog/b.png": png()})).classes == ("cat", "dog")


def test_a_class_without_pictures_is_dropped_and_noted(tmp_path, load):
    root = tree(tmp_path / "data", {"ant/a.png": png(1), "cat/note.txt": b"", "dog/b.png": png(2)})
    data = load(root)
    assert data.classes == ("ant", "dog")
    assert data.labels.tolist() == [0, 1]
    assert any("classes without a picture are dropped: 1 ('cat')" in line for line in data.report.lines())


def test_folders_named_like_splits_are_refused(pack, load):
    with pytest.raises(UsageError, match=r"named like splits.*test, train"):
        load(pack({"train/a.png": png(), "test/b.png": png()}))


def test_pictures_beside_class_folders_are_refused(pack, load):
    contents = {"cat/a.png": png(), "dog/b.png": png(), "loose.png": png()}
    with pytest.raises(UsageError, match=r"outside its class folders \('loose.png'\)"):
        load(pack(contents))
    assert len(load(pack(contents), labels="none")) == 3


def lines(*rows: dict) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def test_metadata_gives_captions_and_labels(pack, load):
    rows = lines(
        {"file_name": "a.png", "text": "one \u2603", "label": "x"}, {"file_name": "b.png", "text": "two", "label": "w"}
    )
    data = load(pack({"in/a.png": png(1), "in/b.png": png(2), "in/metadata.jsonl": rows, "in/LICENSE": b"free"}))
    assert data.captions == ("one \u2603", "two")
    assert data.classes == ("w", "x")
    assert data.labels.tolist() == [1, 0]


def test_metadata_reaches_into_folders_which_are_then_no_classes(pack, load):
    rows = lines({"file_name": "p/a.png", "caption": "one"}, {"file_name": "./q/b.png", "caption": "two"})
    data = load(pack({"p/a.png": png(1), "q/b.png": png(2), "metadata.jsonl": rows}))
    assert (data.captions, data.labels) == (("one", "two"), None)


def test_pictures_not_in_the_metadata_are_left_out_and_counted(pack, load):
    data = load(pack({**many(2), "metadata.jsonl": lines({"file_name": "000.png", "text": "x"})}))
    assert len(data) == 1
    assert data.report.skipped["not named in metadata.jsonl"].first == ("001.png",)


def test_missing_pictures_of_the_metadata_count_as_bad(pack, load):
    rows = lines({"file_name": "000.png", "text": "x"}, {"file_name": "gone.png", "text": "y"})
    with pytest.raises(UsageError, match=r"1 of 2 pictures cannot be used.*not there: 1 \('gone.png'\)"):
        load(pack({**many(1), "metadata.jsonl": rows}))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (b'{"file_name": "000.png"', "line 1 of .* is not JSON"),
        (b'{"text": "x"}', "line 1 of .* has no 'file_name'"),
        (lines({"file_name": "../../etc/x.png"}), "line 1 of .* leads out of the folder"),
        (lines({"file_name": "000.png"}, {"file_name": "./000.png"}), "lines 1 and 2 of .* are both for"),
        (lines({"file_name": "000.png", "text": 3}), "line 1 of .* has text 3; a caption is a text"),
        (lines({"file_name": "000.png", "label": None}), "line 1 of .* has label None"),
        (lines({"file_name": "other.png"}), "names none of the pictures"),
        (b"\xff\xfe{}", "line 1 of .* is not JSON"),
    ],
)
def test_broken_metadata_is_named_by_line(pack, load, rows, message):
    with pytest.raises(UsageError, match=message):
        load(pack({**many(1), "metadata.jsonl": rows}))


def test_keys_of_the_metadata_are_the_users(pack, load):
    rows = lines({"file_name": "000.png", "text": "x", "words": "y", "kind": 7})
    data = load(pack({**many(1), "metadata.jsonl": rows}), caption_key="words", label_key="kind", labels="metadata")
    assert (data.captions, data.classes) == (("y",), ("7",))
    with pytest.raises(UsageError, match="has no 'wrds'; its keys are file_name, kind, text, words"):
        load(pack({**many(1), "metadata.jsonl": rows}), caption_key="wrds")


# Names


NAMES = (
    "Cat/a.png",
    "cat/a.png",
    "Stra\u00dfe/\u732b.png",
    "-rf/--help.png",
    "line\nbreak/a\tb.png",
    "x" * 100 + "/y.png",
)


def test_strange_names_are_kept_apart(pack, load):
    data = load(pack({name: png(number) for number, name in enumerate(NAMES)}))
    by_class = dict(zip((data.classes[label] for label in data.labels), data.values[:, 0, 0, 0], strict=True))
    assert by_class == {name.split("/")[0]: number for number, name in enumerate(NAMES)}
    assert any("'Cat', 'cat' differ only in case" in line for line in data.report.lines())


def test_names_are_shown_escaped(pack, load):
    with pytest.raises(UsageError) as caught:
        load(pack({"evil\n\x1b[31m.png": b"no picture"}))
    assert "'evil\\n\\x1b[31m.png'" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_equal_names_in_a_zip_are_both_read(tmp_path, load):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("a.png", png(1))
        archive.writestr("a.png", png(2))
    assert sorted(load(tmp_path / "twice.zip").values[:, 0, 0, 0]) == [1, 2]


def test_files_of_the_system_and_other_files_are_ignored(pack, load):
    clutter = {".hidden.png": b"", "__MACOSX/._a.png": b"", "Thumbs.db": b"", "README.md": b"", "notes.txt": b""}
    data = load(pack({**many(2), **clutter}), on_error="refuse")
    assert len(data) == 2
    assert data.report.notes == ("ignored 2 files that are not pictures (.md: 1, .txt: 1)",)


# Links


def test_links_are_not_followed(tmp_path, load):
    outside = tree(tmp_path / "outside", many(2))
    root = tree(tmp_path / "data", many(1))
    (root / "file.png").symlink_to(outside / "000.png")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root)
    data = load(root)
    assert len(data) == 1
    assert data.report.skipped["link, not followed"].first == ("file.png", "folder", "loop")


def test_a_file_that_becomes_a_link_after_the_listing_is_not_read(tmp_path):
    root = tree(tmp_path / "data", many(1))
    with open_source(root, ZipLimits()) as source:
        (root / "000.png").rename(tmp_path / "elsewhere.png")
        (root / "000.png").symlink_to(tmp_path / "elsewhere.png")
        with pytest.raises(OSError, match="symbolic link"):
            source.read(0)


def test_special_files_are_not_opened(tmp_path, load):
    root = tree(tmp_path / "data", many(1))
    os.mkfifo(root / "pipe.png")  # opening it would wait for ever
    assert load(root).report.skipped["neither file nor folder"].first == ("pipe.png",)


# Pictures that cannot be used


def test_a_few_bad_pictures_are_left_out_and_counted(pack, load):
    noisy = encoded(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    contents = {**many(200), "broken.png": noisy[: len(noisy) // 2], "empty.png": b""}
    data = load(pack(contents), size=4)
    assert len(data) == data.report.read == 200
    assert data.report.skipped["empty file"].first == ("empty.png",)
    assert data.report.skipped["damaged or cut short"].count == 1
    assert "left out, empty file: 1 ('empty.png')" in data.report.lines()


def test_too_many_bad_pictures_are_refused_by_name(pack, load):
    contents = {**many(10), "text.png": b"no picture"}
    message = r"1 of 11 pictures cannot be used \(more than max_bad = 0.01\): not a picture: 1 \('text.png'\)"
    with pytest.raises(UsageError, match=message):
        load(pack(contents))
    assert len(load(pack(contents), max_bad=0.1)) == 10


def test_on_error_refuse_stops_at_one(pack, load):
    with pytest.raises(UsageError, match=r"1 of 201 .*\(on_error is 'refuse'\): empty file: 1 \('empty.png'\)"):
        load(pack({**many(200), "empty.png": b""}), on_error="refuse")


def test_pixel_limit_counts_as_bad(pack, load):
    with pytest.raises(UsageError, match=r"too many pixels: 1 \('big.png'\)"):
        load(pack({**many(2), "big.png": png(size=9)}), size=4, pixel_limit=80)


@pytest.mark.parametrize(("small", "expected"), [("upscale", 3), ("skip", 2)])
def test_small_pictures(pack, load, small, expected):
    contents = {"a.png": png(1, 8), "b.png": png(2, 8), "tiny.png": png(3, 4)}
    data = load(pack(contents), size=8, small=small)
    assert len(data) == expected
    with pytest.raises(UsageError, match=r"smaller than size = 8: 1 \('tiny.png'\); lower size"):
        load(pack(contents), size=8, small="refuse")


def test_mixed_sizes_need_a_size(pack, load):
    contents = {"a.png": png(1, 8), "b.png": png(2, 8), "c.png": png(3, 6)}
    with pytest.raises(UsageError, match=r"different sizes \(8x8: 2, 6x6: 1\).*size=32"):
        load(pack(contents))
    data = load(pack(contents), size=6)
    assert data.report.sizes == {"8x8": 2, "6x6": 1}
    assert data.shape == (1, 6, 6)


def test_grey_until_the_first_colour(pack, load):
    """Auto channels: pictures before the first coloured one are widened, none is changed."""
    contents = {**many(5), "z.png": png(9, colour=True)}
    grey, mixed = load(pack(many(5))), load(pack(contents))
    assert (grey.shape, mixed.shape) == ((1, 4, 4), (3, 4, 4))
    assert (mixed.values[:5] == grey.values).all()
    assert mixed.values[5, 0, 0].tolist() == [9, 10, 9]


def test_folders_of_runs_and_empty_ones_are_no_data(tmp_path, load):
    """Training in the folder of the pictures adds neither pictures nor a class."""
    run = {"runs/mine/recipe.yaml": b"", "runs/mine/samples/step-1.png": png(9), "runs/new/.lock": b""}
    tree(tmp_path / "flat", {**many(3), **run})
    (tmp_path / "flat" / "nothing").mkdir()
    flat = load(tmp_path / "flat")
    assert (len(flat), len(flat.classes)) == (3, 0)
    tree(tmp_path / "classed", {"a/1.png": png(1), "b/2.png": png(2), **run})
    (tmp_path / "classed" / "nothing").mkdir()
    classed = load(tmp_path / "classed")
    assert (len(classed), classed.classes) == (2, ("a", "b"))


def test_sources_that_are_not_there(tmp_path, load):
    with pytest.raises(UsageError, match=r"there is no folder or zip '.*nowhere'; check the path"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"has no pictures .*; it is empty"):
        load(tmp_path / "empty")
    tree(tmp_path / "texts", {"a.txt": b"", "b.heic": b""})
    with pytest.raises(UsageError, match=r"ignored 2 files that are not pictures \(.heic: 1, .txt: 1\)"):
        load(tmp_path / "texts")
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04 but not really")
    with pytest.raises(UsageError, match="is not a whole zip"):
        load(tmp_path / "no.zip")
    packed(tmp_path / "empty.zip", {})
    with pytest.raises(UsageError, match="it is empty"):
        load(tmp_path / "empty.zip")


# Zips that must not be trusted


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/etc/a.png", "C:\\a.png", "..\\a.png", "C:/a.png"])
def test_zip_entries_that_climb_out_are_refused(tmp_path, load, name):
    with pytest.raises(UsageError, match=r"is refused: its entry .* (climbs out|has an absolute name)"):
        load(packed(tmp_path / "bad.zip", {**many(2), name: png()}))


def test_zip_links_are_refused(tmp_path, load):
    entry = zipfile.ZipInfo("link.png")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(UsageError, match=r"its entry 'link.png' is a link"):
        load(tmp_path / "link.zip")


def test_zip_bombs_are_refused_by_their_directory(tmp_path, load):
    bomb = packed(tmp_path / "bomb.zip", {"a.bmp": bytes(2 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UsageError, match="over 200 times its packed size"):
        load(bomb)
    plain = packed(tmp_path / "plain.zip", many(3))
    for limits, message in (
        ({"entries": 2}, r"has 3 files, more than zip_limits.entries = 2"),
        ({"entry_bytes": 20}, r"more than zip_limits.entry_bytes = 20"),
        ({"total_bytes": 100}, r"more than zip_limits.total_bytes = 100"),
    ):
        with pytest.raises(UsageError, match=message):
            load(plain, zip_limits=ZipLimits(**limits))


def test_unstreamed_and_encrypted_zips_are_refused(tmp_path, load):
    with pytest.raises(UsageError, match="other than store and deflate"):
        load(packed(tmp_path / "lzma.zip", many(1), zipfile.ZIP_LZMA))
    path = packed(tmp_path / "secret.zip", many(1))
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    path.write_bytes(data)
    with pytest.raises(UsageError, match="is encrypted"):
        load(path)


def test_a_nested_zip_is_not_opened(tmp_path, load):
    inner = packed(tmp_path / "inner.zip", many(2)).read_bytes()
    data = load(packed(tmp_path / "outer.zip", {**many(1), "inner.zip": inner}))
    assert len(data) == 1


def test_a_damaged_entry_is_named(tmp_path, load):
    path = packed(tmp_path / "hurt.zip", many(200))
    data = bytearray(path.read_bytes())
    data[data.index(png(7)) + 60] ^= 0xFF  # the sum of the entry no longer holds
    path.write_bytes(data)
    assert load(path).report.skipped["cannot be read"].first == ("007.png",)


# Real zips, a few entries each


@pytest.mark.parametrize(
    ("name", "size", "shape", "classes"),
    [("mnist-train", 14, (1, 14, 14), 10), ("cifar10-train", 32, (3, 32, 32), 10), ("emoji128", 32, (3, 32, 32), 0)],
)
def test_real_zips(tmp_path, load, name, size, shape, classes):
    if not (SHARED / f"{name}.zip").exists():
        pytest.skip("the real images are not here")
    with zipfile.ZipFile(SHARED / f"{name}.zip") as archive:
        names = archive.namelist()
        picked = names[:: len(names) // 40] + [other for other in names if other in ("metadata.jsonl", "LICENSE")]
        contents = {name: archive.read(name) for name in dict.fromkeys(picked)}
    if "metadata.jsonl" in contents:
        rows = (line for line in contents["metadata.jsonl"].splitlines() if json.loads(line)["file_name"] in contents)
        contents["metadata.jsonl"] = b"\n".join(rows)
    data = load(packed(tmp_path / f"{name}.zip", contents), size=size, on_error="refuse")
    assert data.shape == shape
    assert len(data.classes) == classes
    assert (data.captions is not None) == (name == "emoji128")
    assert 30 < data.values.mean() < 230
    shutil.rmtree(tmp_path / "cache")


def test_names_that_are_no_utf8_are_told_and_never_a_traceback(tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    for place in range(3):
        (folder / f"{place}.png").write_bytes(png(place))
    with open(os.fsencode(folder) + b"/\xff.png", "wb") as broken:
        broken.write(b"no picture")
    data = Images(path=folder, size=4, on_error="skip", max_bad=0.5).load()
    assert len(data) == 3
    assert any("\\udcff.png" in line for line in data.report.lines())
    odd = os.fsencode(tmp_path / "classes")
    for name in (b"/plain", b"/\xe9t\xe9"):
        os.makedirs(odd + name)
        with open(odd + name + b"/a.png", "wb") as picture:
            picture.write(png())
    with pytest.raises(UsageError, match=r"there is a class .* which is no whole UTF-8; write it anew"):
        Images(path=tmp_path / "classes", size=4).load()


@pytest.mark.parametrize("key", ["file_name", "label"])
def test_half_a_character_in_the_metadata_is_told(pack, load, key):
    row = {"file_name": "a.png", "text": "one", "label": "x"} | {key: "\ud800" if key == "label" else "\ud800.png"}
    with pytest.raises(UsageError, match=f"line 1 of .* has {key} .* which is no whole UTF-8; write it anew"):
        load(pack({"a.png": png(), "metadata.jsonl": json.dumps(row).encode()}))
