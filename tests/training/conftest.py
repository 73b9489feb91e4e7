"""A recipe that trains in a tenth of a second, and what two runs must have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sklearn.datasets  # noqa: F401 (its first import draws from `random`, which no test may be blamed for)

from suffuse.base.part import parse
from suffuse.base.weights import read_safetensors
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import merged

TINY: dict[str, Any] = {
    "data": {"kind": "mixture", "count": 60},
    "network": {"kind": "mlp", "width": 8, "depth": 1, "frequencies": 4, "dropout": 0.1},
    "path": {"kind": "vp", "schedule": "linear", "steps": 1000},
    "prediction": {"kind": "eps"},
    "objective": {"kind": "denoising", "noise_levels": {"kind": "indices", "stratified": True}},
    "optimiser": {"lr": 1e-2, "warmup": 2, "decay": "cosine"},
    "training": {"steps": 8, "batch": 8, "ema": [100, 1000], "log_every": 3, "checkpoint_every": 4, "device": "cpu"},
    "sampling": {"grid": {"kind": "log_snr", "steps": 3}},
}
PICTURES: dict[str, Any] = {
    "data": {"kind": "digits"},
    "network": {
        "kind": "unet",
        "channels": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention_levels": [],
        "mid_attention": False,
        "groups": 4,
        "dropout": 0.1,
    },
}
CLOCKS = {"images_per_second", "data_wait"}


@pytest.fixture(scope="session")
def tiny_tree() -> dict[str, Any]:
    """The tiny recipe as plain data."""
    return TINY


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Recipe]:
    """tiny("name", steps=..., pictures=True, ...) -> a recipe whose run is tmp_path/name; more keys are settings."""

    def make(
        name: str = "run", *, pictures: bool = False, tree: dict[str, Any] | None = None, **training: Any
    ) -> Recipe:
        base = merged(TINY, PICTURES) if pictures else TINY
        changes = merged({"out": str(tmp_path / name), "training": training}, tree or {})
        return parse(Recipe, merged(base, changes))

    return make


@pytest.fixture
def remains() -> Callable[[Path], dict[str, Any]]:
    """All that must be equal after a run and after the same run with interruptions, to the bit."""

    def read(folder: Path) -> dict[str, Any]:
        newest = max((folder / "checkpoints").glob("step-*"))
        tensors = {
            str(file.relative_to(folder)): {name: tensor.tolist() for name, tensor in read_safetensors(file).items()}
            for root in (folder / "model.safetensors", *(folder / "ema").glob("*"), *newest.glob("*.safetensors"))
            for file in [root]
        }
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        metrics = [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
        return {**tensors, "config": json.loads((folder / "config.json").read_text()), "metrics": metrics}

    return read
