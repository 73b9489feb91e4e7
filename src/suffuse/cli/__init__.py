"""The command line, one file a command. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; a mistake is one line and exit code 2, failed work exit code 1, a signal 130 or 143."""
    from suffuse.cli.app import app
    from suffuse.cli.console import explain_failure

    try:
        code = app(standalone_mode=False)  # None, or the code of an early exit
    except BaseException as error:
        code = explain_failure(error)
    sys.exit(code)
