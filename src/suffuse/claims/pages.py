"""python -m suffuse.claims.pages FILE ...: make the ledger's tables in pages anew."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from suffuse.base import files
from suffuse.base.errors import SuffuseError
from suffuse.claims.tables import filled

__all__ = ["main"]


def main(pages: Sequence[str]) -> int:
    """Fill the pages; returns the exit code."""
    try:
        for page in map(Path, pages):
            text = page.read_text(encoding="utf-8")
            made = filled(text)
            if made != text:
                files.write_text(page, made)
                sys.stdout.write(f"{page}\n")
    except SuffuseError as error:
        sys.stderr.write(f"suffuse: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
