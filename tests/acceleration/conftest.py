"""Denoisers that several tests look at, and none changes."""

from __future__ import annotations

import pytest

from acceleration.tiny_models import our_dit, our_unet
from suffuse.models.denoiser import Denoiser


@pytest.fixture(scope="module")
def unet() -> Denoiser:
    return our_unet()


@pytest.fixture(scope="module")
def dit() -> Denoiser:
    return our_dit()
