"""RunLock: one process at a time in a run's folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

from suffuse.base.errors import RunError, UsageError

__all__ = ["RunLock"]

LOCK_FILE = ".lock"


class RunLock:
    """Context manager that keeps a second process out of a folder.

    The system's lock (flock) ends with the process, however it ends: a lock file that is left over means nothing, and
    nobody has to remove it. The file only tells who holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fd: int | None = None
        # A forked data worker that outlives a killed trainer would hold the lock on; its copy is closed at birth.
        in_child = weakref.WeakMethod(self._close)
        os.register_at_fork(after_in_child=lambda: (close := in_child()) and close())

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            UsageError: There is no such folder, or another process (or lock) holds it; its process id is named.
            RunError: The lock file cannot be written, or the file system has no locks.
        """
        if not self.folder.is_dir():
            raise UsageError(f"{self.folder} is not there, so it cannot be locked; check the path")
        try:
            self._fd = self._locked()
        except OSError as error:
            raise RunError(f"cannot lock {self.folder}: {error}; choose a folder on a disk that can") from error
        return self

    def _locked(self) -> int:
        """Descriptor of the lock file, locked and signed."""
        fd = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"{self.folder} is in use by {_holder(fd)}; wait for it, stop it, or choose another folder"
                ) from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _holder(fd: int) -> str:
    """Who signed the lock file; its text may be missing for the moment between locking and signing."""
    try:
        signed = json.loads(os.pread(fd, 4096, 0))
        return f"process {signed['pid']} on {signed['host']}"
    except (KeyError, TypeError, ValueError):
        return "another process"
