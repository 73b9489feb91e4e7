"""The two kinds of failure that a user may meet, and the nearest-name helper that makes messages useful."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["RunError", "SuffuseError", "UsageError", "closest", "unknown_name"]


class SuffuseError(Exception):
    """A failure that is explained by its message alone; the command line prints it without a traceback."""

    exit_code: int = 1


class UsageError(SuffuseError):
    """The request itself is wrong (a name, a value, a file). Found before any work is done; exit code 2."""

    exit_code = 2


class RunError(SuffuseError):
    """The request was fine but the work could not be finished (disk full, NaN loss, broken weights); exit code 1."""

    exit_code = 1


def closest(name: str, options: Iterable[str]) -> str | None:
    """Return the option most like `name`, or None when nothing is close."""
    found = difflib.get_close_matches(str(name), [str(option) for option in options], n=1, cutoff=0.5)
    return found[0] if found else None


def unknown_name(what: str, name: str, options: Iterable[str]) -> UsageError:
    """Build the one sentence for a wrong name: the thing, the value, the nearest right name and all that exist."""
    names = sorted(str(option) for option in options)
    near = closest(name, names)
    hint = f"did you mean {near!r}? " if near else ""
    return UsageError(f"{what} {name!r} does not exist; {hint}there are: {', '.join(names) or 'none'}")
