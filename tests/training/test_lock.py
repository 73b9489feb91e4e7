"""RunLock: one process at a time, whatever became of the one before."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from suffuse.base.errors import RunError, UsageError
from suffuse.training import lock
from suffuse.training.lock import RunLock


def holder(folder: Path, *, forks: bool = False) -> subprocess.Popen[bytes]:
    """Another process that holds the lock; it prints the process id of its living child, or 0."""
    code = f"""
        import os, sys, time
        from pathlib import Path
        from suffuse.training.lock import RunLock
        with RunLock(Path(sys.argv[1])):
            born, birth = os.pipe()
            child = {forks} and os.fork()
            if {forks} and child == 0:
                os.write(birth, b"!")
                time.sleep(20)
                os._exit(0)
            if child:
                os.read(born, 1)
            print(int(child), flush=True)
            time.sleep(20)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), folder], stdout=subprocess.PIPE)


def test_a_second_process_is_refused_by_name_and_let_in_after_a_kill(tmp_path):
    with holder(tmp_path) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            with pytest.raises(UsageError, match=f"is in use by process {other.pid} on .*; wait for it, stop it"):
                RunLock(tmp_path).__enter__()
        finally:
            other.kill()
    assert f'"pid": {other.pid}' in (tmp_path / ".lock").read_text()  # stale, and no obstacle
    with RunLock(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / ".lock").read_text()


def test_an_orphaned_worker_does_not_hold_the_lock(tmp_path):
    """Data workers are forked; after kill -9 of the trainer they live on for seconds, and a resume must not wait."""
    with holder(tmp_path, forks=True) as other:
        assert other.stdout is not None
        child = int(other.stdout.readline())
        try:
            with pytest.raises(UsageError, match="is in use"):
                RunLock(tmp_path).__enter__()
            other.kill()
            other.wait()
            os.kill(child, 0)  # the worker is alive
            with RunLock(tmp_path):
                pass
        finally:
            other.kill()
            os.kill(child, signal.SIGKILL)


def test_the_same_process_is_refused_too_and_errors_release(tmp_path):
    first = RunLock(tmp_path)
    with first:
        for again in (RunLock(tmp_path), first):
            with pytest.raises(UsageError, match=f"in use by process {os.getpid()}"):
                again.__enter__()
    with pytest.raises(ValueError, match="mine"), first:  # the object can be used again
        raise ValueError("mine")
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\0\0"])
def test_an_unreadable_signature_does_not_matter(tmp_path, text):
    with RunLock(tmp_path):
        (tmp_path / ".lock").write_text(text)
        with pytest.raises(UsageError, match="in use by another process"):
            RunLock(tmp_path).__enter__()
    with RunLock(tmp_path):
        pass


def test_a_missing_folder_and_a_file_system_without_locks_are_told(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="gone is not there"):
        RunLock(tmp_path / "gone").__enter__()

    def unsupported(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with pytest.raises(RunError, match=r"cannot lock .*No locks available; choose a folder"):
        RunLock(tmp_path).__enter__()
