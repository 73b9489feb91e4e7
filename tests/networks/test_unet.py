"""What is the U-Net's own: sizes, levels, validation, concatenated conditions, choice by resolution."""

from __future__ import annotations

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.networks import UNet

SMALL = UNet(channels=16, multipliers=(1, 2, 2), blocks=1, groups=8, attention_levels=(2,), zero_init=False)


def test_weights_serve_other_resolutions_and_odd_coarsest_sides() -> None:
    network = SMALL.build((3, 16, 16))
    x = torch.linspace(-1, 1, 3 * 12 * 20).reshape(1, 3, 12, 20)
    with torch.no_grad():
        assert network(x, torch.zeros(1)).value.shape == x.shape


def test_sides_that_cannot_be_halved_are_refused_by_their_divisor() -> None:
    with pytest.raises(UsageError, match=r"14 x 16, a U-Net of 3 levels needs sides divisible by 4"):
        SMALL.build((3, 14, 16))
    network = SMALL.build((3, 16, 16))
    with pytest.raises(UsageError, match="divisible by 4"):
        network(torch.zeros(1, 3, 16, 18), torch.zeros(1))
    with pytest.raises(UsageError, match="use the network mlp"):
        SMALL.build((2,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"groups": 32, "channels": 16}, "groups = 32 does not divide the 16 channels of level 0"),
        ({"attention_levels": (4,)}, "attention_levels has 4, the levels are 0 to 3"),
        ({"head_channels": 48}, "head_channels = 48 does not divide the 256 channels of level 1"),
        ({"channels": 32, "multipliers": (1, 1.51)}, r"multipliers\[1\] = 1.51 gives 48.32 channels"),
        ({"chanels": 3}, "did you mean 'channels'"),
    ],
)
def test_wrong_fields_are_explained(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(UNet, fields)


def test_concatenated_channels_are_read() -> None:
    network = SMALL.replace(extra_channels=2).build((3, 16, 16))
    x = torch.zeros(1, 5, 16, 16)
    with torch.no_grad():
        before = network(x, torch.zeros(1)).value
        x[:, 3:] = 1.0
        after = network(x, torch.zeros(1)).value
    assert before.shape == (1, 3, 16, 16)
    assert not torch.allclose(before, after, atol=1e-3)


def test_memory_format_changes_speed_and_nothing_else() -> None:
    x, told = torch.linspace(-1, 1, 2 * 3 * 256).reshape(2, 3, 16, 16), torch.tensor([1.0, 500.0])
    with torch.no_grad():
        plain = SMALL.replace(channels_last=False).build((3, 16, 16))(x, told).value
        last = SMALL.build((3, 16, 16))(x, told).value
    assert last.is_contiguous()
    # Other kernels sum in another order.
    torch.testing.assert_close(last, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [8, 14, 28, 30, 32, 64, 100, 128, 256])
def test_every_usual_size_gets_a_network_that_fits(side: int) -> None:
    part = UNet.for_data((3, side, side))
    part.check_size(side, side)
    assert side // part.divisor >= 4
    assert f"U-Net for {side}x{side} with {len(part.multipliers)} levels" in part.describe((3, side, side))


def test_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \(3, 300, 300\).*from 8 to 256"):
        UNet.for_data((3, 300, 300))


def test_the_mid_norm_and_attention_can_be_left_out() -> None:
    names = {name for name, _ in SMALL.build((3, 16, 16)).named_parameters()}
    bare = {name for name, _ in SMALL.replace(mid_attention_norm=False).build((3, 16, 16)).named_parameters()}
    none = {name for name, _ in SMALL.replace(mid_attention=False).build((3, 16, 16)).named_parameters()}
    assert names - bare == {"mid.attention.norm.weight", "mid.attention.norm.bias"}
    assert not any(name.startswith("mid.attention") for name in none)
