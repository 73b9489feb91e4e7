"""Checks the tiny claim in a process that a test kills."""

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
    verify([tiny.tiny_claim()], "small", Settings(store=Path(sys.argv[1])))
