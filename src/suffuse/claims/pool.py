"""Work spread over processes: one thread each, no orphans, and a signal that lets every process save before it goes."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from suffuse.base import files
from suffuse.base.errors import RunError, SuffuseError
from suffuse.claims.arms import Work, work
from suffuse.training.lock import RunLock
from suffuse.training.signals import Stop, Stopped

__all__ = ["alone", "run_all"]

_WATCH = 1.0  # seconds between a worker's looks at whether its parent still lives
_PATIENCE = 120.0  # seconds that a killed check's workers get to save what they were at
_WORKERS = ".workers"  # a file on which every worker holds a shared lock


@contextmanager
def alone(store: Path) -> Iterator[None]:
    """Keep other checks out of a store, and wait for what a killed one left running.

    Raises:
        UsageError: Another check is at work there.
    """
    files.make_folder(store)
    with RunLock(store), (store / _WORKERS).open("a") as left:
        for _ in range(int(_PATIENCE / _WATCH)):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_WATCH)
        else:
            raise RunError(f"processes of an earlier check are still at work in {store}; stop them, then start again")
        fcntl.flock(left, fcntl.LOCK_UN)
        yield


def run_all(items: Sequence[Work], jobs: int, on_done: Callable[[str], None]) -> None:
    """Do all work; an item that fails does not keep those from being finished that build on none.

    Args:
        items: In the order in which they are begun.
        jobs: Processes; with one the work is done here.
        on_done: Told the label of each finished item.

    Raises:
        Stopped: A signal asked for it, after every process has saved.
        RunError: Items failed, each with its reason, or a process died.
    """
    failed: list[str] = []
    for wave in _waves(items):
        if jobs == 1 or len(wave) < 2:
            for item in wave:
                _note(lambda item=item: work(item), on_done, failed)  # type: ignore[misc]  # bound at once
        else:
            _spread(wave, jobs, on_done, failed)
        if failed:
            break  # what comes later may build on what is missing
    if failed:
        raise RunError(f"{len(failed)} arms failed, the others are kept: {'; '.join(failed)}")


def _waves(items: Sequence[Work]) -> Iterator[list[Work]]:
    """Items in their order, those that build on another one of them in a later wave than it."""
    waiting = list(items)
    while waiting:
        keys = {item.key for item in waiting}
        wave = [item for item in waiting if item.needs not in keys]
        yield wave
        waiting = [item for item in waiting if item.needs in keys]


def _note(result: Callable[[], str], on_done: Callable[[str], None], failed: list[str]) -> None:
    try:
        on_done(result())
    except BrokenProcessPool:
        raise
    except Exception as error:
        failed.append(str(error) if isinstance(error, SuffuseError) else f"{type(error).__name__}: {error}")


def _spread(items: Sequence[Work], jobs: int, on_done: Callable[[str], None], failed: list[str]) -> None:
    context = multiprocessing.get_context("spawn")  # a forked copy of torch's threads would hang
    pool = ProcessPoolExecutor(
        min(jobs, len(items)), mp_context=context, initializer=_begin, initargs=(os.getpid(), items[0].store)
    )
    waiting: set[Future[str]] = set()
    try:
        with Stop() as stop, stop.interruptible():
            waiting = {pool.submit(_work, item) for item in items}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    _note(future.result, on_done, failed)
    except BrokenProcessPool as error:
        raise RunError(
            "a process of the check died (out of memory?); what was finished is kept: start again, with fewer --jobs"
        ) from error
    except BaseException:
        _stop(waiting)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _stop(waiting: Iterable[Future[str]]) -> None:
    """Take back what has not begun, and ask the processes to save and leave."""
    for future in waiting:
        future.cancel()
    for process in multiprocessing.active_children():
        if process.pid is not None:
            os.kill(process.pid, signal.SIGTERM)


def _work(item: Work) -> str:
    """In a worker: a stop ends the process once the item is saved, or it would begin the next one in the queue."""
    try:
        return work(item)
    except Stopped as stopped:
        os._exit(stopped.exit_code)
    except Exception as error:
        try:
            pickle.dumps(error)
        except Exception:  # what cannot travel to the parent (torch's compiler holds modules) would hide its own cause
            raise RunError(f"{item.label}: {type(error).__name__}: {error}") from None
        raise


def _begin(parent: int, store: Path) -> None:
    """In a worker: Ctrl-C is the parent's to pass on, and a parent that was killed takes its workers along."""
    fcntl.flock(os.open(store / _WORKERS, os.O_RDWR | os.O_CREAT, 0o666), fcntl.LOCK_SH)  # held until the process ends
    # A terminal sends Ctrl-C to the whole group: a worker would take the parent's word for a second one.
    os.setpgid(0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
