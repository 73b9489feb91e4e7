"""Memory while sampling, the loader's second epoch, and the time to a help page."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

__all__ = ["measure"]

_MEMORY = """
import resource, sys, torch
from benchmarks.networks import DIGITS, model_of
from suffuse.sampling import DDIM, Uniform, sample_batches
model = model_of(*DIGITS)
for made in sample_batches(model, int(sys.argv[1]), shape=(1, 8, 8), solver=DDIM(), grid=Uniform(steps=2), batch=64):
    del made
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _peak(n: int) -> int:
    out = subprocess.run([sys.executable, "-c", _MEMORY, str(n)], check=True, capture_output=True, text=True)
    return int(out.stdout)


def _loader() -> float:
    """Images a second of the second epoch, one thread, batch 128."""
    import torch

    from suffuse.data import Dataset, Loader

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8))
        dataset = Dataset.of("benchmark", np.load(path, mmap_mode="r"))
        loader = Loader(dataset, batch=128, seed=0)
        steps = len(dataset) // 128
        for step in range(steps):
            loader.at(step)
        began = time.perf_counter()
        for step in range(steps, 2 * steps):
            loader.at(step)
        return steps * 128 / (time.perf_counter() - began)


def _help() -> float:
    program = Path(sys.executable).with_name("suffuse")
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run([program, "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measure() -> list[tuple[str, str, str]]:
    """Rows of (what, figure, goal)."""
    few, many = _peak(64), _peak(4096)
    return [
        ("peak memory, 4096 samples over 64 (batches of 64)", f"{many / few:.3f}", "1.0: does not grow"),
        ("loader's second epoch, 32x32 RGB, one thread", f"{_loader():,.0f} images/s", "over 50,000 images/s"),
        ("suffuse --help", f"{_help():.2f} s", "under 0.5 s, without torch"),
    ]
