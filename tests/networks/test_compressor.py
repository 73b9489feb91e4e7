"""The compressor on EfficientNetV2-S: weights of ImageNet are fetched for a fresh run, and never for a finished one."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from suffuse.base.errors import UsageError
from suffuse.networks.autoencoders import Compressor
from suffuse.networks.autoencoders.compressor import CompressorNetwork
from suffuse.networks.part import seeded

PART = Compressor(backbone="efficientnet_v2_s", latent_channels=4)


class _StandIn(nn.Module):
    """In the place of torchvision's network: 1280 channels at a thirty-second of the sides."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 1280, 32, stride=32)
        nn.init.constant_(self.features.weight, weight)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Which weights torchvision was asked for; `DEFAULT` can be fetched unless "offline" is put in front."""
    found: list[str | None] = []

    def efficientnet_v2_s(*, weights: str | None) -> nn.Module:
        found.append(weights)
        if weights is not None and found[0] == "offline":
            raise OSError("no route to host")
        return _StandIn(0.0 if weights is None else 0.01)

    module = types.ModuleType("torchvision.models")
    module.efficientnet_v2_s = efficientnet_v2_s  # type: ignore[attr-defined]  # a stand-in
    package = types.ModuleType("torchvision")
    package.models = module  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", module)
    return found


def test_a_finished_compressor_is_built_without_asking_for_weights(asked: list[str | None]) -> None:
    live = PART.build((3, 64, 64)).eval()
    assert isinstance(live, CompressorNetwork)
    assert asked == [None]
    assert live.moments(torch.zeros(2, 3, 64, 64))[0].shape == (2, 4, 2, 2)
    again = PART.build((3, 64, 64))
    again.load_state_dict(live.state_dict())
    assert asked == [None, None]


def test_a_fresh_one_starts_from_those_of_imagenet(asked: list[str | None]) -> None:
    live = PART.build((3, 64, 64))
    assert isinstance(live, CompressorNetwork)
    with seeded(0):
        said = live.start()
    assert said is not None
    assert "ImageNet" in said
    assert asked == [None, "DEFAULT"]
    assert torch.equal(live.state_dict()["encoder.weight"], torch.full((1280, 3, 32, 32), 0.01))
    plain = Compressor(widths=(8,)).build((3, 64, 64))
    assert isinstance(plain, CompressorNetwork)
    assert plain.start() is None


def test_weights_that_cannot_be_fetched_are_told(asked: list[str | None]) -> None:
    asked.append("offline")
    live = PART.build((3, 64, 64))
    assert isinstance(live, CompressorNetwork)
    with pytest.raises(UsageError, match=r"could not be fetched \(no route to host\); put torchvision's file into"):
        live.start()


def test_without_torchvision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UsageError, match=r"needs torchvision; pip install 'suffuse\[inception\]', or use conv"):
        PART.build((3, 64, 64))
