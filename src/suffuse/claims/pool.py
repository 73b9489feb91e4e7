"""Work spread over processes: one thread each, no orphans, and a signal that lets every process save before it goes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from suffuse.base.errors import RunError
from suffuse.claims.arms import Work, work
from suffuse.training.signals import Stopped

__all__ = ["run_all"]

_WATCH = 1.0  # seconds between a worker's looks at whether its parent still lives


def run_all(items: Sequence[Work], jobs: int, on_done: Callable[[str], None]) -> None:
    """Do all work; finished items are kept whatever happens to the others.

    Args:
        items: In the order in which they are begun.
        jobs: Processes; with one the work is done here.
        on_done: Told the label of each finished item.

    Raises:
        Stopped: A signal asked for it, after every process has saved.
        RunError: A process died.
    """
    if jobs == 1 or len(items) < 2:
        for item in items:
            on_done(work(item))
        return
    context = multiprocessing.get_context("spawn")  # a forked copy of torch's threads would hang
    pool = ProcessPoolExecutor(min(jobs, len(items)), mp_context=context, initializer=_begin, initargs=(os.getpid(),))
    waiting: set[Future[str]] = set()
    try:
        waiting = {pool.submit(_work, item) for item in items}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                on_done(future.result())
    except BrokenProcessPool as error:
        raise RunError(
            "a process of the check died (out of memory?); what was finished is kept: start again, with fewer --jobs"
        ) from error
    except BaseException:
        _stop(pool.__dict__.get("_processes") or {}, waiting)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _stop(processes: dict[int, multiprocessing.process.BaseProcess], waiting: Iterable[Future[str]]) -> None:
    """Take back what has not begun, and ask the processes to save and leave."""
    for future in waiting:
        future.cancel()
    for process in processes.values():
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGTERM)


def _work(item: Work) -> str:
    """In a worker: a stop ends the process once the item is saved, or it would begin the next one in the queue."""
    try:
        return work(item)
    except Stopped as stopped:
        os._exit(stopped.exit_code)


def _begin(parent: int) -> None:
    """In a worker: Ctrl-C is the parent's to pass on, and a parent that was killed takes its workers along."""
    os.setpgid(
        0, 0
    )  # a terminal sends Ctrl-C to the whole group; a worker would take the parent's word as a second one

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
