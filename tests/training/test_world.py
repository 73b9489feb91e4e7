"""Two processes on gloo: equal gradients, one process's training, one writer, and one stop for all."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.weights import read_safetensors
from suffuse.training.metrics_log import read_metrics
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import merged
from suffuse.training.run import train
from suffuse.training.world import World, choose_device, joined

_HEAD = "objective/discriminator.head.weight"
WORKER = Path(__file__).with_name("world_worker.py")
STEPS, JOBS = 4, 7  # as in the worker
ALONE = World(0, 1, torch.device("cpu"))
CODEC: dict[str, Any] = {
    "learns": "codec",
    "data": {"kind": "digits"},
    "network": {
        "kind": "vq",
        "channels": 4,
        "multipliers": [1, 2],
        "blocks": 1,
        "latent_channels": 2,
        "groups": 2,
        "codebook": {"size": 9, "learns": "ema", "decay": 0.5, "dead": 0.3},
    },
    "objective": {
        "kind": "autoencoding",
        "adversarial": {"start": 2, "discriminator": {"width": 8, "layers": 1, "norm": "group"}},
    },
    "optimiser": {"lr": 1e-3, "eps": 1e-3},
    "training": {"steps": 4, "batch": 8, "accumulate": 2, "ema": [100], "device": "cpu"},
}


STAGES: dict[str, Any] = {
    "learns": "stages",
    "data": {"kind": "digits"},
    "training": {"batch": 8, "ema": [100], "device": "cpu"},
    "stages": {
        "squeeze": {
            "learns": "codec",
            "network": {
                "kind": "kl",
                "channels": 4,
                "multipliers": [1, 2],
                "blocks": 1,
                "groups": 2,
                "attention": False,
            },
            "training": {"steps": 2},
        },
        "draw": {
            "codec": {"run": "stage:squeeze", "std": 1.0},
            "network": {"kind": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 2},
            "path": "flow",
            "prediction": "flow",
            "conditioner": "none",
            "training": {"steps": 3},
        },
    },
}


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@pytest.fixture(scope="module")
def pair(tiny_tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which two processes have done all jobs of `world_worker.py`; done once for all tests."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "recipe.json").write_text(json.dumps(shared_recipe(tiny_tree, folder).dump()))
    (folder / "codec.json").write_text(json.dumps(CODEC))
    (folder / "stages.yaml").write_text(json.dumps(STAGES))
    ports = ",".join(map(str, free_ports(JOBS)))
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), ports],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            out, _ = process.communicate(timeout=90)
            assert process.returncode == 0, out
    finally:
        for process in processes:
            process.kill()
    return folder


def shared_recipe(tree: dict[str, Any], folder: Path) -> Recipe:
    """What both processes and the single one train; dropout, stratified times and accumulation are in it."""
    changes = {
        "network": {"zero_init": False},
        "optimiser": {"lr": 1e-3, "eps": 1e-4},
        "training": {"steps": 12, "accumulate": 2, "log_every": 1, "checkpoint_every": 6},
        "out": str(folder / "pair"),
    }
    return parse(Recipe, merged(tree, changes))


@pytest.fixture(scope="module")
def single(tiny_tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The same training in one process with the same global batch, by the worker's own words."""
    folder = tmp_path_factory.mktemp("single")
    runpy.run_path(str(WORKER))["gradients"](shared_recipe(tiny_tree, folder), folder)
    return read_safetensors(folder / "rank0.safetensors")


def told(folder: Path, run: str) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank{rank}-{run}.json").read_text()) for rank in range(2)]


def test_both_ranks_hold_equal_gradients_after_every_step(pair: Path) -> None:
    """Equal to the bit: the sum is made once and sent to both."""
    first, second = (read_safetensors(pair / f"rank{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    assert {name.split("/")[0] for name in first} == {*map(str, range(STEPS)), "end"}
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name


def test_two_processes_train_as_one_with_the_doubled_batch(pair: Path, single: dict[str, Tensor]) -> None:
    """The samples and their draws are bit-equal; means of halves round otherwise than the whole's mean.

    So gradients and losses agree to float32's 1e-6 of the largest. Adam divides by the root of the second moment, in
    which its eps of 1e-4 keeps that rounding from growing: weights to 1e-5 after four steps of 1e-3.
    """
    found = read_safetensors(pair / "rank0.safetensors")
    assert found.keys() == single.keys()
    largest = max(tensor.abs().max().item() for name, tensor in single.items() if not name.startswith("end/"))
    for name, tensor in single.items():
        atol = 1e-5 if name.startswith("end/") else 2e-6 * largest
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-5, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_whole_run_has_the_single_runs_loss_curve(pair: Path, tiny_tree: dict[str, Any], tmp_path: Path) -> None:
    """Twelve steps of rounding that differs: 1e-5 relative; the clocks are each run's own."""
    recipe = shared_recipe(tiny_tree, tmp_path)
    alone = read_metrics(train(recipe, "name").folder)
    together = read_metrics(pair / "pair")
    assert [row["step"] for row in together] == [row["step"] for row in alone] == list(range(1, 13))
    for row, expected in zip(together, alone, strict=True):
        assert row["images"] == expected["images"]
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def test_the_first_process_alone_writes_and_talks(pair: Path) -> None:
    first, second = told(pair, "pair")
    assert (first["ended"], second["ended"]) == ("finished", "finished")
    assert (first["steps"], second["steps"]) == (12, 0)
    assert first["notes"] > 0
    assert second["notes"] == 0
    assert sorted(path.name for path in (pair / "pair" / "checkpoints").iterdir()) == ["step-00000006", "step-00000012"]
    assert json.loads((pair / "pair" / "environment.json").read_text())["processes"] == 2


def test_a_signal_to_one_process_stops_both_and_saves(pair: Path) -> None:
    """It reached the second process alone, in step 5; both finished it, the first one saved."""
    first, second = told(pair, "stopped")
    assert (first["ended"], second["ended"]) == ("143", "143")
    assert first["steps"] == 5
    assert [path.name for path in (pair / "stopped" / "checkpoints").iterdir()] == ["step-00000005"]


def test_a_batch_that_two_cannot_share_is_refused_by_both(pair: Path) -> None:
    for rank in told(pair, "odd"):
        assert rank["ended"] == (
            "training.batch is 9, which cannot be shared evenly (processes: 2, accumulate: 2); use a multiple of 4"
        )
    assert not (pair / "odd").exists()


def test_stages_are_trained_by_both_and_decided_by_the_first(pair: Path) -> None:
    first, second = told(pair, "staged")
    names = ("stage 1 of 2, squeeze", "stage 2 of 2, draw")
    assert first["said"] == [*names]
    again = told(pair, "staged-again")
    assert again[0]["said"] == [f"{name}: finished before" for name in names]
    assert second["said"] == again[1]["said"] == []
    assert (first["step"], first["first"], second["first"]) == (3, True, False)
    assert (pair / "staged" / "stages" / "squeeze" / "model.safetensors").is_file()


def test_half_of_an_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT is"), joined("cpu"):
        pass


def test_several_players_and_a_codebook_stay_equal_in_both(pair: Path) -> None:
    first, second = (read_safetensors(pair / f"contested{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name
    moved = [not torch.equal(first[f"{step}/{_HEAD}"], first[f"0/{_HEAD}"]) for step in range(STEPS)]
    assert moved == [False, False, True, True]


def test_a_codebook_learns_from_both_as_from_one(pair: Path, tmp_path: Path) -> None:
    """Before the discriminator's weight, which each process takes on its own images; to the order of sums."""
    (tmp_path / "codec.json").write_text(json.dumps(CODEC))
    runpy.run_path(str(WORKER))["contested"](tmp_path)
    alone, together = (
        read_safetensors(tmp_path / "contested0.safetensors"),
        read_safetensors(pair / "contested0.safetensors"),
    )
    for name, tensor in alone.items():
        if name.startswith(("0/", "1/")):
            torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


# One process alone


def test_alone_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit-equal to no world at all: there is no process group that could answer."""
    weight = nn.Parameter(torch.tensor([1.0]))
    weight.grad = torch.tensor([0.3])
    ALONE.average_gradients([weight])
    assert ALONE.first_alone(lambda: 7, "count") == 7
    assert weight.grad.tolist() == [torch.tensor(0.3).item()]
    assert ALONE.mean(torch.tensor(2.0)).item() == 2
    assert (ALONE.any(True), ALONE.any(False), ALONE.first) == (True, False, True)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined("cpu") as world:
        assert world == ALONE


def test_an_unknown_device_is_told() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in {"cpu", "cuda"}
    with pytest.raises(UsageError, match="device 'tpu' is unknown; use auto, cpu, cuda or cuda:N"):
        choose_device("tpu")
