"""Stop: Ctrl-C and SIGTERM finish the step, save and leave; a second one leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Stop", "Stopped"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECOND = "a second signal leaves at once"


class Stopped(BaseException):
    """Work ended early because a signal asked for it.

    Not an `Exception`: libraries wrap or swallow those (torch's compiler does), and a stop must come through.

    Attributes:
        exit_code: What the program shall return: 130 after SIGINT, 143 after SIGTERM.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


class Stop:
    """Context manager that turns the first SIGINT or SIGTERM into a request to stop.

    The first signal is noted in `requested`, and the loop looks there after each step. Where nothing is half-written
    (data loading, compilation, evaluation) `with stop.interruptible():` lets it interrupt at once. The second signal
    ends the process on the spot, which costs nothing that was saved, because files are whole or absent.

    Handlers can only be installed by the main thread; in any other, `request` is the way to stop. A `Stop` within
    another tells the outer one. A forked child does not answer for its parent: it ignores Ctrl-C and dies of SIGTERM.

    Attributes:
        signum: The signal that came first; None before.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._outer: Stop | None = None
        self._pid = 0
        self._interruptible = 0
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}  # Any: as in typeshed

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, 0 when nothing came."""
        return 0 if self.signum is None else 128 + self.signum

    def request(self, signum: int = signal.SIGTERM) -> None:
        """Ask to stop, as a first signal would; a later request changes nothing."""
        if self.signum is None:
            self.signum = signum
        if self._outer is not None:
            self._outer.request(signum)

    def check(self) -> None:
        """Leave here if asked to.

        Raises:
            Stopped: A stop was requested.
        """
        if self.signum is not None:
            raise Stopped(self.signum)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block that the first signal interrupts wherever it is; it must hold nothing half-done.

        Raises:
            Stopped: A stop was requested, before the block or within it.
        """
        self._interruptible += 1
        try:
            self.check()  # counted first: a signal between the two is not lost
            yield
        finally:
            self._interruptible -= 1

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        if threading.current_thread() is threading.main_thread():
            outer = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
            self._outer = outer if isinstance(outer, Stop) else None
            if self._outer is not None:
                self.signum = self._outer.signum
            self._previous = {signum: signal.signal(signum, self._handle) for signum in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, previous in self._previous.items():
            signal.signal(signum, signal.SIG_DFL if previous is None else previous)  # None: it was set outside Python
        self._previous = {}

    def _may_interrupt(self) -> bool:
        return self._interruptible > 0 or (self._outer is not None and self._outer._may_interrupt())

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        if self.signum is not None:
            os._exit(128 + signum)
        self.request(signum)
        if self._may_interrupt():
            _tell(f"stopping here; {_SECOND}")
            raise Stopped(signum)
        _tell(f"finishing this step, then saving; {_SECOND}")


def _tell(line: str) -> None:
    """One line to standard error, past Python's buffers: a handler may interrupt a write to them."""
    with contextlib.suppress(OSError):  # a closed terminal must not keep the work from being saved
        os.write(2, f"\n{line}\n".encode())
