"""What is the DiT's own: sizes, patches, the start of training."""

from __future__ import annotations

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.networks import DiT, count_parameters


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_named_sizes_have_the_published_number_of_weights(size: str, millions: int) -> None:
    # peebles2023dit, for latents (4, 32, 32) with learned variances. The table of 1001 labels stands in the
    # conditioner here. The published figures are rounded to a million.
    part = DiT.preset(size, patch=2)
    with torch.device("meta"):
        network = part.build((4, 32, 32), out_channels=8)
    found = sum(parameter.numel() for parameter in network.parameters()) + 1001 * part.width
    assert found / 1e6 == pytest.approx(millions, abs=0.8)


def test_small_sizes_are_small_and_unknown_ones_refused() -> None:
    assert count_parameters(DiT.preset("tiny"), (1, 8, 8)) < 200_000
    with pytest.raises(UsageError, match="DiT size 'XXL' does not exist; did you mean 'XL'"):
        DiT.preset("XXL")
    with pytest.raises(UsageError, match="heads = 5 does not divide width = 384"):
        parse(DiT, {"heads": 5})


def test_pixels_come_back_where_their_patch_was() -> None:
    # With one token of influence (no mixing at the start: gates are zero), output pixel (i, j) depends on its patch.
    network = DiT(width=16, depth=1, heads=1, patch=2).build((1, 4, 8))
    generator = torch.Generator().manual_seed(0)
    network.output.linear.weight.data = torch.randn(4, 16, generator=generator)
    x = torch.zeros(1, 1, 4, 8)
    changed = x.clone()
    changed[0, 0, 2, 5] = 1.0
    told = torch.zeros(1)
    difference = (network(changed, told).value - network(x, told).value)[0, 0]
    moved = difference.abs() > 1e-6
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[2:4, 4:6] = True
    assert torch.equal(moved, expected)


def test_another_size_needs_another_build_and_the_weights_fit() -> None:
    part = DiT(width=16, depth=1, heads=1)
    network = part.build((1, 4, 4))
    with pytest.raises(UsageError, match=r"image is 8 x 8, this DiT was built for 4 x 4"):
        network(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    part.build((1, 8, 8)).load_state_dict(network.state_dict())
    with pytest.raises(UsageError, match="6 x 5, which patches of side 2 do not tile"):
        part.build((1, 6, 5))


def test_frequency_shift_matters() -> None:
    # Guards against a silent default: published DiTs and diffusers' differ in it.
    outputs = []
    for shift in (0, 1):
        network = DiT(width=16, depth=1, heads=1, freq_shift=shift).build((1, 4, 4))
        outputs.append(network.time(torch.tensor([500.0]), None))
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-4)


def test_under_autocast_the_residual_stream_stays_float32() -> None:
    network = DiT(width=32, depth=2, heads=2, patch=2).build((1, 4, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        out = network(torch.ones(2, 1, 4, 4), torch.zeros(2), taps=("embed", "blocks.0", "blocks.1"))
    assert {feature.dtype for feature in out.features.values()} == {torch.float32}
