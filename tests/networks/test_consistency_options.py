"""What the consistency papers need of networks: Fourier embeddings, norms without scale, shared dropout, jvp."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import upfirdn
from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.models.derivatives import check_finite_derivative, jvp
from suffuse.networks import MLP, DiT, NetworkPart, UNet
from suffuse.networks.blocks.embeddings import Fourier
from suffuse.networks.blocks.norms import NonScalingLayerNorm
from suffuse.networks.blocks.residual import smooth_double, smooth_halve

SMALL = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), groups=4, zero_init=False)
NETWORKS: tuple[NetworkPart, ...] = (
    SMALL,
    SMALL.replace(norm="non_scaling", fourier=0.02, skip_scale=0.5**0.5),
    SMALL.replace(resample="resnet", resample_filter="smooth"),
    DiT(width=32, depth=2, heads=2, patch=2),
    MLP(width=16, depth=2, zero_init=False, norm="non_scaling", fourier=0.02),
)


def _x(n: int = 4, channels: int = 1) -> Tensor:
    return torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(6, 10), (6, 10, 3, 3)])
def test_the_norm_without_scale_is_layer_norm_with_weight_one(shape: tuple[int, ...]) -> None:
    mine, theirs = NonScalingLayerNorm(10), nn.LayerNorm(10)
    shift = torch.linspace(-1, 1, 10)
    with torch.no_grad():
        mine.bias.copy_(shift)
        theirs.bias.copy_(shift)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mine(x), theirs(x.movedim(1, -1)).movedim(-1, 1), atol=1e-6)
    assert [name for name, _ in mine.named_parameters()] == ["bias"]


def test_fourier_embeddings_are_fixed_and_scaled() -> None:
    few, many = Fourier(64, 0.02), Fourier(64, 16.0)
    t = torch.tensor([0.1, 0.2])
    assert torch.equal(few(t), Fourier(64, 0.02)(t))
    near, far = (float((table(t)[0] - table(t)[1]).norm()) for table in (few, many))
    assert near < 0.1 < far
    assert torch.allclose(many.frequencies.table, few.frequencies.table * 800, rtol=1e-5)
    assert few.bfloat16()(t).dtype is torch.float32  # type: ignore[no-untyped-call]  # untyped in torch


def test_skip_scale_keeps_the_variance() -> None:
    plain = SMALL.build((1, 8, 8))
    scaled = SMALL.replace(skip_scale=0.5**0.5).build((1, 8, 8))
    scaled.load_state_dict(plain.state_dict())
    t = torch.zeros(4)
    with torch.no_grad():
        assert not torch.allclose(plain(_x(), t).value, scaled(_x(), t).value)


def test_smooth_resampling_is_the_filter_of_the_papers() -> None:
    """Against scipy's polyphase filters, one axis after the other; zeros beyond the border."""
    x = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    taps = np.array([1.0, 3.0, 3.0, 1.0]) / 8

    def filtered(gain: float, up: int, down: int, cut: slice) -> NDArray[np.float64]:
        found = x.numpy()
        for axis in (2, 3):
            found = upfirdn(gain * taps, found, up=up, down=down, axis=axis)
            found = found.take(np.arange(found.shape[axis])[cut], axis=axis)
        return found

    # One zero before the first pixel: the filter's first output is dropped when halving by two.
    halved = upfirdn(taps, np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1))), down=1, axis=2)[:, :, 3:-3:2]
    halved = upfirdn(taps, halved, down=1, axis=3)[:, :, :, 3:-3:2]
    np.testing.assert_allclose(smooth_halve(x).numpy(), halved, atol=1e-12)
    np.testing.assert_allclose(smooth_double(x).numpy(), filtered(2.0, 2, 1, slice(1, -1)), atol=1e-12)


def test_smooth_resampling_needs_residual_blocks() -> None:
    with pytest.raises(ValueError, match="resample_filter = 'smooth' acts inside residual blocks; set resample=resnet"):
        UNet(resample_filter="smooth")


def test_diffusers_is_told_what_it_does_not_have() -> None:
    pytest.importorskip("diffusers")
    from suffuse.interop.diffusers_configs import unet_to_config

    with pytest.raises(UsageError, match=r"fourier = 0\.02"):
        unet_to_config(SMALL.replace(fourier=0.02), (1, 8, 8), 1, classes=None)


@pytest.mark.parametrize("part", NETWORKS, ids=repr)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_is_the_same_in_both_evaluations(part: NetworkPart, checkpointing: bool) -> None:
    """Also where one keeps gradients and the other does not, as in a consistency step."""
    network = part.replace(dropout=0.4, checkpointing=checkpointing).build((1, 8, 8)).train()
    seeds, t = torch.arange(4), torch.full((4,), 0.3)
    with torch.no_grad():
        target = network(_x(), t, seeds=seeds).value
    mine = network(_x(), t, seeds=seeds).value
    mine.sum().backward()
    assert torch.allclose(mine, target, atol=1e-6)
    other = network(_x(), t, seeds=seeds.flip(0)).value
    assert not torch.allclose(other, target, atol=1e-3) or part.kind == "dit"  # a fresh DiT says nothing


@pytest.mark.parametrize("part", NETWORKS, ids=repr)
@pytest.mark.parametrize("channels", [1, 3])
def test_forward_derivatives_are_those_of_differences(part: NetworkPart, channels: int) -> None:
    """Of three channels too: only then do maps lie channels last."""
    network = part.build((channels, 8, 8)).double()
    if part.kind == "dit":
        for p in network.parameters():  # a fresh DiT says nothing
            nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    x, t = _x(channels=channels).double(), torch.linspace(0.1, 0.9, 4)
    dx, dt = torch.ones_like(x), torch.ones_like(t)

    def value(x: Tensor, t: Tensor) -> Tensor:
        found: Tensor = network(x, t).value
        return found

    found, slope = jvp(value, (x, t), (dx, dt))
    h = 1e-3  # times are float32
    with torch.no_grad():
        difference = (value(x + h * dx, t + h * dt) - value(x - h * dx, t - h * dt)) / (2 * h)
        assert torch.allclose(found, value(x, t), atol=1e-6)
    assert torch.allclose(slope, difference, atol=2e-3 * float(difference.abs().max()) + 1e-9)
    found.sum().backward()  # weights get gradients of the value as usual
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in network.parameters())


def test_a_derivative_that_is_not_finite_stops() -> None:
    from suffuse.base.errors import RunError

    bad = torch.zeros(3, 2)
    bad[1, 0] = float("nan")
    with pytest.raises(RunError, match=r"step 7.*not finite for 1 of 3 samples.*precision=float32"):
        check_finite_derivative(bad, 7)
