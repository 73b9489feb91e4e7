"""DeepCache on a U-Net of ours: what is reused, and that the rest is the step's own."""

from __future__ import annotations

import pytest
import torch

from acceleration.tiny_models import at, noise
from suffuse.acceleration import (
    DeepCache,
    applied,
)
from suffuse.acceleration.deepcache import decoder_blocks
from suffuse.base.call import Call


@pytest.mark.parametrize("branch", range(6))
def test_at_the_same_input_a_cached_step_gives_the_same_bits(unet, branch):
    x = noise(2)
    with torch.no_grad(), applied(unet, DeepCache(every=5, branch=branch)) as run:
        full = unet.denoise(x, 300.0, None, at(0))
        cached = unet.denoise(x, 300.0, None, at(1))
    assert torch.equal(full, cached)
    asked = run.timeline().asked
    assert len(asked[1][0].computed) < len(asked[0][0].computed)


@pytest.mark.parametrize("branch", range(6))
def test_a_cached_step_sees_the_steps_own_input_and_time(unet, branch):
    """Against the network itself, given what the first step left."""
    x, y = noise(2), noise(2, seed=2)
    network = unet.network
    name = network.graph[decoder_blocks(network)[-1 - branch]][0]
    with torch.no_grad():
        kept = unet.evaluate(x, 300.0, None, Call(taps=(name,))).features[name]
        wanted = network(y, unet.told(120.0, 2), given={name: kept}).value
        with applied(unet, DeepCache(every=5, branch=branch)):
            unet.denoise(x, 300.0, None, at(0))
            found = unet.evaluate(y, 120.0, None, at(1)).raw
    assert torch.equal(found, wanted)
