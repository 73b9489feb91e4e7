"""Checks the tiny claim in a process that a test stops: store, jobs, steps of an arm."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

from suffuse.claims.verify import Settings, verify

if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    torch.set_num_threads(1)
    longer = (*tiny.TINY, f"steps={sys.argv[3]}")
    verify(
        [tiny.tiny_claim(shared=longer)], "small", Settings(store=Path(sys.argv[1]), jobs=int(sys.argv[2]), threads=1)
    )
