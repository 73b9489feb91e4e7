"""Averages of weights: the recursion in closed form, the ramp, and what is not averaged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from suffuse.base.errors import UsageError
from suffuse.training.ema import EMA, ema_name


class Module(nn.Module):
    """A trained weight, a frozen one and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.frozen = nn.Parameter(torch.tensor([5.0]), requires_grad=False)
        self.register_buffer("count", torch.tensor([0]))
        self.count: Tensor


def moved(module: Module, step: int) -> None:
    """What an optimiser would do, and a buffer that moves with it."""
    with torch.no_grad():
        module.trained.copy_(torch.tensor([1.0, -2.0]) + step)
        module.count += 1


def closed_form(half_life: float, ramp: float, images: int, steps: int) -> Tensor:
    """sum_k (1 - keep_k) prod_{j > k} keep_j w_k + prod_j keep_j w_0, in float64."""
    keeps = [0.5 ** (images / min(half_life, ramp * step * images)) for step in range(1, steps + 1)]
    value = torch.zeros(2, dtype=torch.float64)
    weight = 1.0
    for step in range(steps, 0, -1):
        value += weight * (1 - keeps[step - 1]) * (torch.tensor([1.0, -2.0], dtype=torch.float64) + step)
        weight *= keeps[step - 1]
    return value + weight * torch.tensor([1.0, -2.0], dtype=torch.float64)


@pytest.mark.parametrize("ramp", [0.05, 1e9])
def test_every_average_is_its_closed_form(ramp: float) -> None:
    """Twenty float32 interpolations round by 1e-7 each."""
    module, half_lives = Module(), (16.0, 100.0)
    ema = EMA(module, half_lives, ramp)
    for step in range(1, 21):
        moved(module, step)
        ema.update(8, 8 * step)
    for half_life in half_lives:
        found = ema.weights(ema_name(half_life))["trained"].double()
        torch.testing.assert_close(found, closed_form(half_life, ramp, 8, 20), rtol=3e-6, atol=1e-6)


def test_after_a_half_life_half_of_a_jump_is_left() -> None:
    module = Module()
    ema = EMA(module, (40.0,), ramp=1e9)
    moved(module, 10)
    for step in range(1, 6):
        ema.update(8, 8 * step)
    torch.testing.assert_close(ema.weights("ema_40")["trained"], torch.tensor([6.0, 3.0]))


def test_the_ramp_forgets_the_start() -> None:
    """With a half-life of 5 % of the images seen, what was there before step k weighs (k / n)**(20 ln 2) or so."""
    module = Module()
    ramped, plain = EMA(module, (1e6,)), EMA(module, (1e6,), ramp=1e9)
    moved(module, 10)
    for step in range(1, 101):
        for ema in (ramped, plain):
            ema.update(8, 8 * step)
    assert (ramped.weights("ema_1000000")["trained"] - module.trained).abs().max() < 1e-6
    assert (plain.weights("ema_1000000")["trained"] - module.trained).abs().max() > 9.9


def test_frozen_weights_and_buffers_are_copied() -> None:
    module = Module()
    ema = EMA(module, (100.0,))
    moved(module, 3)
    with torch.no_grad():
        module.frozen += 1
    ema.update(8, 8)
    weights = ema.weights("ema_100")
    assert weights["frozen"].tolist() == [6.0]
    assert weights["count"].tolist() == [1]
    assert list(ema.state_dict()["ema_100"]) == ["trained"]


def test_weights_are_not_shared() -> None:
    module = Module()
    ema = EMA(module, (100.0,))
    weights = ema.weights("ema_100")
    for tensor in weights.values():
        tensor.zero_()
    assert module.frozen.item() == 5
    assert ema.weights("ema_100")["trained"].tolist() == [1.0, -2.0]


def test_bfloat16_weights_are_averaged_in_float32() -> None:
    """A step of 1e-4 of the gap is below bfloat16's resolution; in float32 it adds up."""
    module = Module().bfloat16()
    ema = EMA(module, (8e4,), ramp=1e9)
    with torch.no_grad():
        module.trained += 1
    for step in range(1, 101):
        ema.update(8, 8 * step)
    gained = ema.state_dict()["ema_80000"]["trained"] - torch.tensor([1.0, -2.0])
    torch.testing.assert_close(gained, torch.full((2,), 1 - 0.5 ** (800 / 8e4)), rtol=1e-3, atol=0)
    assert ema.weights("ema_80000")["trained"].dtype == torch.bfloat16


def test_the_state_comes_back_and_other_half_lives_are_refused() -> None:
    module = Module()
    ema, other = EMA(module, (16.0, 100.0)), EMA(Module(), (100.0, 16.0))
    moved(module, 3)
    ema.update(8, 8)
    other.load_state_dict(ema.state_dict())
    for name in ("ema_16", "ema_100"):
        assert torch.equal(other.state_dict()[name]["trained"], ema.state_dict()[name]["trained"])
    with pytest.raises(UsageError, match="the checkpoint has no average 'ema_32', only ema_16, ema_100; resume with"):
        EMA(module, (16.0, 32.0)).load_state_dict(ema.state_dict())
