"""Encoder reuse on a U-Net of ours: what the network sees, and decoders of several steps at once."""

from __future__ import annotations

import pytest
import torch

from acceleration.tiny_models import at, made, noise
from suffuse.acceleration import (
    EncoderReuse,
    applied,
)
from suffuse.base.errors import UsageError
from suffuse.sampling import DPMSolverPP, Heun


def test_an_encoder_that_is_reused_does_not_see_the_samples(unet):
    x = noise(2)
    with torch.no_grad(), applied(unet, EncoderReuse(every=5)):
        unet.denoise(x, 300.0, None, at(0))
        ahead = unet.evaluate(x, 120.0, None, at(1)).raw
        assert torch.equal(unet.evaluate(noise(2, seed=2), 120.0, None, at(2)).raw, ahead)


def test_parallel_decoders_equal_those_one_after_the_other(unet):
    with applied(unet, EncoderReuse()) as one:
        apart = made(unet, steps=20, solver=DPMSolverPP(order=2))
    with applied(unet, EncoderReuse(parallel=True)) as several:
        together = made(unet, steps=20, solver=DPMSolverPP(order=2))
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-4)
    assert several.timeline().total == pytest.approx(one.timeline().total)
    calls = sum(bool(asked.computed) for step in several.timeline().asked for asked in step)
    assert calls == 2 * len(EncoderReuse().refreshes(20))  # an encoder and a stack of decoders at each key step


def test_parallel_decoders_need_one_evaluation_a_step(unet):
    with applied(unet, EncoderReuse(parallel=True)), pytest.raises(UsageError, match="one evaluation a step"):
        made(unet, solver=Heun())
