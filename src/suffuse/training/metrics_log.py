"""Metrics of a run: a line of JSON each, and TensorBoard's files when asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError

__all__ = ["MetricsLog", "read_metrics"]

METRICS_FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:  # Any: numbers and strings
    """All lines of a run, oldest first; a torn last line is left out.

    Raises:
        RunError: A whole line is not JSON.
    """
    path = folder / METRICS_FILE
    try:
        return [json.loads(line) for line in files.read_lines(path)] if path.is_file() else []
    except ValueError as error:
        raise RunError(f"{path} holds a line that is not JSON ({error}); remove that line") from error


class MetricsLog:
    """Writes metrics; on a resume, lines of steps that will be taken again are dropped first.

    Args:
        folder: The run's folder.
        resumed_at: Steps already taken.
        tensorboard: Write TensorBoard's files too.

    Raises:
        UsageError: TensorBoard is asked for but not installed.
    """

    def __init__(self, folder: Path, *, resumed_at: int = 0, tensorboard: bool = False) -> None:
        self.path = folder / METRICS_FILE
        kept = [row for row in read_metrics(folder) if row["step"] <= resumed_at]
        if self.path.is_file():
            files.write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._board = _board(folder / "tensorboard", resumed_at) if tensorboard else None

    def write(self, row: dict[str, float | int]) -> None:
        """Add a line; `step` is among its keys."""
        files.append_line(self.path, json.dumps(row))
        if self._board is not None:
            for key, value in row.items():
                if key != "step":
                    self._board.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Flush TensorBoard's files."""
        if self._board is not None:
            self._board.close()


def _board(folder: Path, purge: int) -> Any:  # Any: an optional package's class
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            "training.tensorboard needs the package tensorboard; pip install 'suffuse[tensorboard]'"
        ) from None
    return SummaryWriter(str(folder), purge_step=purge + 1)
