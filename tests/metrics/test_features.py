import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from suffuse.base.errors import RunError, UsageError
from suffuse.metrics import Inception, Pixels, extract


class _StandIn(nn.Module):
    """In the place of torchvision's network, which tests do without: means of the channels, then `fc`."""

    def __init__(self, *, transform_input, init_weights):
        super().__init__()
        assert not transform_input  # its input then is [-1, 1]
        self.fc = nn.Linear(3, 7)
        self.sizes = []

    def forward(self, x):
        self.sizes.append(tuple(x.shape[1:]))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def torchvision(monkeypatch):
    module = types.ModuleType("torchvision.models.inception")
    module.Inception3 = _StandIn
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchvision.models.inception", module)


def test_pixels_are_the_pixels_in_order():
    images = torch.arange(24.0).reshape(2, 3, 2, 2)
    features = extract(Pixels((3, 2, 2)), [images[:1], images[1:]])
    assert features.dtype == np.float32
    assert features.tolist() == images.reshape(2, 12).tolist()
    assert Pixels((3, 2, 2)).hash != Pixels((1, 4, 3)).hash


def test_pixels_refuse_other_shapes_and_nothing():
    with pytest.raises(UsageError, match=r"shape \(1, 2, 2\), not \(3, 2, 2\)"):
        Pixels((3, 2, 2))(torch.zeros(1, 1, 2, 2))
    with pytest.raises(UsageError, match="no images to take pixels features of"):
        extract(Pixels((3, 2, 2)), [])


def test_inception_without_its_extra_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UsageError, match=r"torchvision, which is not installed; pip install 'suffuse\[inception\]'"):
        Inception()


@pytest.mark.usefixtures("torchvision")
def test_inception_without_its_weights_downloads_nothing(tmp_path):
    with pytest.raises(UsageError, match=r"inception.pth are not there and are never downloaded silently"):
        Inception(tmp_path / "inception.pth")


@pytest.mark.usefixtures("torchvision")
def test_inception_refuses_foreign_weights_and_code_in_a_pickle(tmp_path):
    torch.save({"other": torch.zeros(2)}, tmp_path / "foreign.pth")
    with pytest.raises(RunError, match=r"foreign.pth does not hold torchvision's Inception v3"):
        Inception(tmp_path / "foreign.pth")
    torch.save(types.SimpleNamespace(), tmp_path / "code.pth")
    with pytest.raises(RunError, match=r"code.pth does not hold"):
        Inception(tmp_path / "code.pth")


@pytest.mark.usefixtures("torchvision")
def test_inception_takes_grey_as_colour_at_its_own_size_and_names_its_weights(tmp_path):
    torch.save(
        {"fc.weight": torch.zeros(7, 3), "fc.bias": torch.zeros(7)},
        tmp_path / "weights.pth",
    )
    inception = Inception(tmp_path / "weights.pth")
    grey = inception(torch.full((2, 1, 8, 8), 0.25))
    assert torch.equal(grey, torch.full((2, 3), 0.25))  # the classifier is gone, the input unchanged in range
    assert inception._network.sizes == [(3, 299, 299)]
    assert inception.name == f"fid_torchvision_inception_{inception.hash[:8]}"
    with pytest.raises(UsageError, match="4 channels"):
        inception(torch.zeros(1, 4, 8, 8))
