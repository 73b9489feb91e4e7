"""The metrics of a run: lines that come back, and lines that a resume takes back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from suffuse.base.errors import RunError, UsageError
from suffuse.training.metrics_log import MetricsLog, read_metrics


def logged(folder: Path, steps: range, resumed_at: int = 0) -> None:
    log = MetricsLog(folder, resumed_at=resumed_at)
    for step in steps:
        log.write({"step": step, "loss": 0.1 * step})
    log.close()


def test_numbers_come_back_to_the_bit(tmp_path: Path) -> None:
    row = {"step": 3, "loss": 0.1 + 0.2, "grad_norm": 1e-300, "overflow": float("inf")}
    log = MetricsLog(tmp_path)
    log.write(row)
    log.close()
    assert read_metrics(tmp_path) == [row]


def test_a_run_without_metrics_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_a_resume_drops_the_steps_that_will_be_taken_again(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 7))
    logged(tmp_path, range(5, 8), resumed_at=4)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    straight = tmp_path / "straight"
    straight.mkdir()
    logged(straight, range(1, 8))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


def test_starting_over_drops_all(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 4))
    MetricsLog(tmp_path).close()
    assert read_metrics(tmp_path) == []


def test_a_torn_line_is_left_out_and_written_over(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    logged(tmp_path, range(3, 4), resumed_at=2)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_broken_line_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n\0\0\0\n')
    with pytest.raises(RunError, match=r"metrics.jsonl holds a line that is not JSON \(.*\); remove that line"):
        read_metrics(tmp_path)


def test_tensorboard_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"training.tensorboard needs the package tensorboard; pip install 'suffuse"):
        MetricsLog(tmp_path, tensorboard=True)


def test_tensorboard_gets_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written through torch's own writer; a resume tells it from which step on the old ones are void."""
    boards: list[Board] = []

    class Board:
        def __init__(self, folder: str, purge_step: int) -> None:
            self.folder, self.purge_step, self.closed = folder, purge_step, False
            self.scalars: list[tuple[str, float, int]] = []
            boards.append(self)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.scalars.append((name, value, step))

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", Board)
    log = MetricsLog(tmp_path, resumed_at=4, tensorboard=True)
    log.write({"step": 5, "loss": 0.5, "lr": 0.1})
    log.close()
    (board,) = boards
    assert (board.folder, board.purge_step, board.closed) == (str(tmp_path / "tensorboard"), 5, True)
    assert board.scalars == [("loss", 0.5, 5), ("lr", 0.1, 5)]
