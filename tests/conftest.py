"""What all tests share: one thread, and global generators that nobody touches."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import ot  # noqa: F401  (its import draws once from Python's global generator)
import pytest
import rich.style  # noqa: F401  (its import draws once from Python's global generator)
import torch

# Tests run on small tensors: with two threads their barriers made the tests of `process` 14 times slower on a busy
# machine of two cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _global_generators_untouched() -> Iterator[None]:
    torch_before, numpy_before, python_before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    touched = [
        name
        for name, same in {
            "torch": torch.equal(torch_before, torch.get_rng_state()),
            "numpy": all(np.array_equal(a, b) for a, b in zip(numpy_before, np.random.get_state(), strict=True)),
            "random": python_before == random.getstate(),
        }.items()
        if not same
    ]
    assert not touched, f"the global generator of {', '.join(touched)} was used"
