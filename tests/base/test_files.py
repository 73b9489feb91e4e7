"""Files and sealed folders: whole or absent, whatever fails; each fault is injected where bytes reach the disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def seal(folder: Path, **contents: str) -> Path:
    """A sealed folder; the files are written plainly, so that flushing them is the seal's business alone."""
    with files.staged(folder) as staging:
        for name, text in contents.items():
            (staging / name).write_text(text)
        (staging / "deep").mkdir()
        (staging / "deep" / "er.txt").write_text("x")
    return folder


def full_after(room: int):
    """A disk that takes `room` bytes more, the last piece in part, as a real one does."""
    left = room

    def write(fd: int, data: bytes) -> None:
        nonlocal left
        taken = os.write(fd, data[:left])
        left -= taken
        if taken < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return write


def test_replacing_a_file_keeps_bytes_and_the_umask(tmp_path):
    path = tmp_path / "a b\n.txt"
    files.write_text(path, "old\n")
    old = os.umask(0o077)
    try:
        files.write_text(path, "zwölf\r\n")
    finally:
        os.umask(old)
    assert path.read_bytes() == "zwölf\r\n".encode()
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("work", ["file", "folder"])
def test_everything_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch, work):
    """A power cut may undo whatever was not flushed, so the order of the calls is the guarantee itself."""
    flushed: set[int] = set()
    unnamed: set[int] = set()  # folders with a rename that is not flushed yet
    rename = files._rename

    def log_write(fd: int, data: bytes) -> None:
        os.write(fd, data)
        flushed.discard(os.fstat(fd).st_ino)

    def log_sync(fd: int) -> None:
        flushed.add(os.fstat(fd).st_ino)
        unnamed.discard(os.fstat(fd).st_ino)

    def log_rename(source: Path, target: Path) -> None:
        for path in [source, *source.rglob("*")]:
            assert path.stat().st_ino in flushed, f"{path} gets its final name before it is flushed"
        rename(source, target)
        unnamed.add(target.parent.stat().st_ino)

    for name, replacement in {"_write": log_write, "_sync": log_sync, "_rename": log_rename}.items():
        monkeypatch.setattr(files, name, replacement)
    if work == "file":
        files.write_json(tmp_path / "facts.json", {"a": 1})
    else:
        seal(tmp_path / "step", weights="w")
    assert not unnamed, "a rename was never flushed"
    assert flushed


@pytest.mark.parametrize("room", [0, 1, 5, 9])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, room):
    path = tmp_path / "config.json"
    files.write_bytes(path, b"old content")
    monkeypatch.setattr(files, "_write", full_after(room))
    with pytest.raises(RunError, match=r"cannot write .*config\.json: the disk is full; free some space"):
        files.write_bytes(path, b"new content")
    assert path.read_bytes() == b"old content"
    assert names(tmp_path) == ["config.json"]


@pytest.mark.parametrize("call", ["_sync", "_rename"])
@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EDQUOT, "quota is used up"),
        (errno.EACCES, "permission is denied"),
        (errno.EROFS, "is read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_failing_call_is_explained_and_leaves_nothing(tmp_path, monkeypatch, call, code, told):
    seal(tmp_path / "old", a="1")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, call, fail)
    with pytest.raises(RunError, match=f"cannot write .*new.*{told}"):
        files.write_text(tmp_path / "new", "text")
    with pytest.raises(RunError, match=f"cannot write .*{told}") as caught:
        seal(tmp_path / "new", a="2")
    assert ".staging" not in str(caught.value)  # the user knows the final name only
    assert names(tmp_path) == ["old"]
    files.verify(tmp_path / "old")


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(RunError, match="No such file or directory"):
        files.write_text(tmp_path / "nowhere" / "a.txt", "x")


def test_a_sealed_folder_verifies_and_lists_all(tmp_path):
    folder = seal(tmp_path / "step", a="1", b="")
    files.verify(folder)
    listed = json.loads((folder / "manifest.json").read_text())
    assert sorted(listed["files"]) == ["a", "b", "deep/er.txt"]
    # an outside truth: the digest of "1" as sha256sum prints it
    assert listed["files"]["a"] == {
        "size": 1,
        "sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
    }


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_nothing(tmp_path, error):
    def work() -> None:
        with files.staged(tmp_path / "step") as staging:
            files.write_text(staging / "a", "1")
            raise error

    with pytest.raises(type(error)):
        work()
    assert names(tmp_path) == []


def test_an_existing_folder_is_refused_before_and_after_the_work(tmp_path):
    folder = seal(tmp_path / "step", a="1")
    with pytest.raises(UsageError, match="exists and is never overwritten"):
        seal(folder, a="2")
    with pytest.raises(UsageError, match="never overwritten"), files.staged(tmp_path / "late"):
        (tmp_path / "late").mkdir()
    assert (folder / "a").read_text() == "1"
    assert names(tmp_path) == ["late", "step"]


def test_a_block_may_not_write_the_manifest_or_links(tmp_path):
    with pytest.raises(UsageError, match=r"manifest\.json is the name of the manifest itself"):
        seal(tmp_path / "step", **{"manifest.json": "{}"})
    with pytest.raises(RunError, match="is a link"), files.staged(tmp_path / "step") as staging:
        (staging / "a").symlink_to("/etc/hostname")


def test_libraries_own_errors_pass_through(tmp_path):
    """PIL's UnidentifiedImageError is an OSError without a number: not a matter of the disk."""
    with pytest.raises(OSError, match="odd picture"), files.staged(tmp_path / "step"):
        raise OSError("odd picture")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda f: (f / "a").unlink(), "a is missing"),
        (lambda f: (f / "a").write_text("on"), "a has 2 bytes, its manifest says 3"),
        (lambda f: (f / "a").write_text("two"), "the content of a has changed"),
        (lambda f: (f / "deep" / "er.txt").write_bytes(b"\0"), "the content of deep/er.txt has changed"),
        (lambda f: (f / "b").write_text(""), "b is not in its manifest"),
        (lambda f: (f / "b").symlink_to(f / "a"), "b is a link"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: os.truncate(f / "manifest.json", 40), "manifest.json is not readable JSON"),
        (lambda f: (f / "manifest.json").write_bytes(bytes(90)), "manifest.json is not readable JSON"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff"), "manifest.json is not readable JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "a JSON list, not an object"),
        (lambda f: (f / "manifest.json").write_text("{}"), "format_version None"),
        (lambda f: (f / "manifest.json").write_text('{"format_version": 1, "files": {"a": {}}}'), "does not list"),
    ],
)
def test_whatever_is_broken_is_named(tmp_path, harm, told):
    folder = seal(tmp_path / "step", a="one")
    harm(folder)
    with pytest.raises(RunError, match=told):
        files.verify(folder)


def test_names_and_sizes_alone_can_be_checked(tmp_path):
    folder = seal(tmp_path / "step", a="one")
    (folder / "a").write_text("two")
    files.verify(folder, hashes=False)
    (folder / "a").write_text("three")
    with pytest.raises(RunError, match="has 5 bytes"):
        files.verify(folder, hashes=False)


def test_a_newer_format_and_a_missing_folder_are_the_users_to_mend(tmp_path):
    folder = seal(tmp_path / "step", a="one")
    (folder / "manifest.json").write_text('{"format_version": 9, "files": {}}')
    with pytest.raises(UsageError, match="format_version 9, written by a newer suffuse; this one reads up to 1"):
        files.verify(folder)
    with pytest.raises(UsageError, match="is not there"):
        files.verify(tmp_path / "gone")


def test_a_torn_manifest_of_a_dying_disk_is_found(tmp_path, monkeypatch):
    """The rename came through, the manifest's content did not."""
    write = files._write

    def torn(fd: int, data: bytes) -> None:
        write(fd, data[:-7] if b"sha256" in data else data)

    monkeypatch.setattr(files, "_write", torn)
    with pytest.raises(RunError, match=r"manifest\.json is not readable JSON"):
        files.verify(seal(tmp_path / "step", a="one"))


def test_leftovers_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path):
    dead_folder, dead_file = tmp_path / ".staging-step-1-999-0123abcd", tmp_path / ".staging-a.json-7-0123abcd"
    dead_folder.mkdir()
    (dead_folder / "half").write_text("h")
    dead_file.write_text("h")
    (tmp_path / ".staging-mine").mkdir()  # not ours by its form
    with files.staged(tmp_path / "step") as living:
        assert set(files.clean_staging(tmp_path)) == {dead_folder, dead_file}
        assert living.is_dir()
        assert files.clean_staging(tmp_path) == ()
    assert names(tmp_path) == [".staging-mine", "step"]


def test_a_removal_cut_short_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    folder = seal(tmp_path / "step", a="one")

    def cut(path: Path) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", cut)
        with pytest.raises(RunError, match=r"cannot remove .*step: permission is denied"):
            files.discard(folder)
    assert not folder.exists()
    assert len(files.clean_staging(tmp_path)) == 1
    assert names(tmp_path) == []


def test_json_survives_and_refuses_what_json_lacks(tmp_path):
    data = {"format_version": 1, "name": "größe \ud800", "x": 0.1, "n": [1, None, True]}
    files.write_json(tmp_path / "a.json", data)
    assert files.read_json(tmp_path / "a.json") == data
    with pytest.raises(RunError, match=r"cannot write .*a\.json: .*JSON"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert files.read_json(tmp_path / "a.json") == data


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"a\.json does not exist; check the path"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(UsageError, match="is a folder, not a file"):
        files.read_json(tmp_path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="not readable JSON"):
        files.read_json(tmp_path / "deep.json")


@pytest.mark.parametrize("tail", [b"", b'{"loss": 0.', b"\0" * 9000])
def test_a_torn_last_line_neither_counts_nor_harms_the_next(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    files.append_line(path, "one")
    files.append_line(path, "zwei\u2028drei")  # a line separator of Unicode is no line break of ours
    with path.open("ab") as file:
        file.write(tail)
    assert files.read_lines(path) == ["one", "zwei\u2028drei"]
    files.append_line(path, "four")
    assert files.read_lines(path) == ["one", "zwei\u2028drei", "four"]
    assert path.read_bytes().endswith(b"drei\nfour\n")


def test_a_full_disk_leaves_no_torn_line(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    files.append_line(path, "one")
    monkeypatch.setattr(files, "_write", full_after(2))
    with pytest.raises(RunError, match=r"cannot write .*metrics\.jsonl: the disk is full"):
        files.append_line(path, "two")
    assert path.read_bytes() == b"one\n"
    with pytest.raises(UsageError, match="holds a line break"):
        files.append_line(path, "a\nb")


def test_lines_that_are_no_text_are_told(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(RunError, match="is not UTF-8"):
        files.read_lines(tmp_path / "a.jsonl")


def test_folders_are_made_up_to_the_top_and_a_file_in_the_way_is_told(tmp_path):
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="File exists"):
        files.make_folder(tmp_path / "file" / "b")


def test_the_file_layer_needs_no_torch():
    """Tools that only look at runs, and the writer that is killed in tests, start without it."""
    code = "import sys, suffuse.base.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
