"""What people see: notes, bars, tables, and one line for a mistake."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from suffuse.base.errors import SuffuseError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Bar", "bar", "explain_failure", "note", "say"]


def say(text: str) -> None:
    """The result of a command, on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Something worth knowing on the way, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def explain_failure(error: BaseException) -> int:
    """Print what went wrong and return the exit code; a bug of ours keeps its traceback."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, typer.TyperException):
        sentence = " ".join(error.format_message().split())
        note(f"suffuse: {sentence.rstrip('.')}; --help shows what there is")
        return 2
    if isinstance(error, SuffuseError):
        note(f"suffuse: {error}")
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        note("suffuse: stopped")
        return 130
    code = getattr(error, "exit_code", None)
    if isinstance(code, int) and type(error).__name__ == "Stopped":
        note(f"suffuse: {error}")
        return code
    if type(error).__name__ == "OutOfMemoryError":
        first = str(error).split(". ", 1)[0]
        note(f"suffuse: the GPU's memory is full ({first}); lower --batch (or training.batch), or use bfloat16")
        return 1
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        note(f"suffuse: {error.filename!r}: {error.strerror}; check the path and who may use it")
        return 1
    raise error


class Bar:
    """A progress bar on a terminal, a line now and then elsewhere."""

    def __init__(self, progress: Progress | None, title: str, every: int) -> None:
        self.progress, self.title, self.every = progress, title, every
        self.task: TaskID | None = None

    def rename(self, title: str) -> None:
        """Begin anew under another title."""
        self.title, self.task = title, None

    def show(self, done: int, total: int, text: str = "") -> None:
        """Move to `done` of `total`."""
        if self.progress is not None:
            if self.task is None:
                self.task = self.progress.add_task(self.title, total=total, text="")
            self.progress.update(self.task, completed=done, text=text)
        elif self.every and (done % self.every == 0 or done == total):
            note(f"{self.title} {done}/{total} {text}".rstrip())


@contextmanager
def bar(title: str, every: int = 0) -> Iterator[Bar]:
    """Draw a bar while the block runs.

    Args:
        title: What is going on.
        every: Without a terminal, print a line every so many; 0 is quiet.
    """
    if not sys.stderr.isatty():
        yield Bar(None, title, every)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bar(progress, title, every)
