"""The optimiser: AdamW by hand, the learning rate in closed form, and a state that goes by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from suffuse.training.optimiser import build_optimiser, learning_rate, load_optimiser_state, optimiser_state
from suffuse.training.radam import RAdam
from suffuse.training.settings import OptimiserSettings

GRADIENTS = (0.3, -0.1, 0.2, 0.05)


def weights() -> dict[str, nn.Parameter]:
    return {"a": nn.Parameter(torch.tensor([1.0, 2.0])), "b": nn.Parameter(torch.tensor([[3.0]]))}


def stepped(named: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer, gradients: tuple[float, ...]) -> None:
    for gradient in gradients:
        for p in named.values():
            p.grad = torch.full_like(p, gradient)
        optimiser.step()


def test_the_update_is_adamw() -> None:
    """Decay of the weight, then the bias-corrected moments; float32 against float64 after four steps: 1e-6."""
    settings = OptimiserSettings(lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    named = weights()
    stepped(named, build_optimiser(named, settings), GRADIENTS)
    value, first, second = 3.0, 0.0, 0.0
    for step, g in enumerate(GRADIENTS, 1):
        first, second = 0.8 * first + 0.2 * g, 0.95 * second + 0.05 * g * g
        value *= 1 - 0.01 * 0.1
        value -= 0.01 * (first / (1 - 0.8**step)) / (math.sqrt(second / (1 - 0.95**step)) + 1e-3)
    assert named["b"].item() == pytest.approx(value, rel=1e-6)


def test_the_state_goes_by_name_and_continues_to_the_bit() -> None:
    settings = OptimiserSettings(lr=0.01)
    straight, before = weights(), weights()
    stepped(straight, build_optimiser(straight, settings), GRADIENTS)
    optimiser = build_optimiser(before, settings)
    stepped(before, optimiser, GRADIENTS[:2])
    state = optimiser_state(optimiser, before)
    assert set(state) == {"a", "b"}

    after = {name: nn.Parameter(before[name].detach().clone()) for name in ("b", "a")}  # another order
    resumed = build_optimiser(after, settings)
    load_optimiser_state(resumed, after, state)
    stepped(before, optimiser, GRADIENTS[2:])  # what was handed over is not shared
    stepped(after, resumed, GRADIENTS[2:])
    for name, p in straight.items():
        assert torch.equal(after[name], p)
        assert torch.equal(before[name], p)


def rates(settings: OptimiserSettings, total: int) -> Tensor:
    return torch.tensor([learning_rate(settings, step, total) for step in range(total)], dtype=torch.float64)


def test_the_rate_warms_up_linearly_and_stays() -> None:
    found = rates(OptimiserSettings(lr=0.4, warmup=4), 6)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.4, 0.4], dtype=torch.float64))
    assert rates(OptimiserSettings(lr=0.4), 3).tolist() == [0.4] * 3


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_rate_decays_from_its_share_on(decay: str) -> None:
    """Towards 0, which it would reach one step after the last."""
    settings = OptimiserSettings(lr=1.0, decay=decay, decay_from=0.25)
    found = rates(settings, 8)
    done = torch.tensor([0, 0, 0, 1, 2, 3, 4, 5], dtype=torch.float64) / 6
    expected = 1 - done if decay == "linear" else (done * math.pi / 2).cos() ** 2
    torch.testing.assert_close(found, expected)
    assert learning_rate(settings, 8, 8) == pytest.approx(0, abs=1e-15)


def test_warm_up_and_decay_multiply() -> None:
    found = rates(OptimiserSettings(lr=1.0, warmup=3, decay="linear"), 4)
    torch.testing.assert_close(found, torch.tensor([1 / 3, 0.5, 0.5, 0.25], dtype=torch.float64))


@pytest.mark.parametrize(("eps", "decay"), [(1e-8, 0.0), (1e-4, 0.1)])
def test_radam_is_torch_s_radam(eps: float, decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (5,))]
    mine, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    settings = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": eps, "weight_decay": decay}
    fast = RAdam(mine, **settings)  # type: ignore[arg-type]  # numbers by name
    slow = torch.optim.RAdam(theirs, decoupled_weight_decay=True, **settings)  # type: ignore[arg-type]  # as above
    for _ in range(40):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator, dtype=torch.float64)
            b.grad = a.grad.clone()
        fast.step()
        slow.step()
        for a, b in zip(mine, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)
    assert fast.param_groups[0]["lr"] == 1e-2
    assert fast.param_groups[0]["weight_decay"] == decay


def _from_its_state(
    optimiser: torch.optim.Optimizer, named: dict[str, nn.Parameter], settings: OptimiserSettings
) -> torch.optim.Optimizer:
    """Another optimiser that goes on where one was, as after a resume."""
    fresh = build_optimiser(named, settings)
    load_optimiser_state(fresh, named, optimiser_state(optimiser, named))
    return fresh


def test_radam_goes_on_from_its_state() -> None:
    settings = OptimiserSettings(kind="radam", lr=1e-2)
    runs = []
    for stop in (None, 3, 12):
        named = {"w": nn.Parameter(torch.linspace(-1, 1, 6))}
        optimiser = build_optimiser(named, settings)
        for step in range(20):
            if step == stop:
                optimiser = _from_its_state(optimiser, named, settings)
            named["w"].grad = torch.sin(named["w"].detach() * (step + 1))
            optimiser.step()
        runs.append(named["w"].detach().clone())
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_radam_s_warm_up_begins_with_the_first_gradient() -> None:
    """A discriminator sits the first steps out: they are none of its own, in one go as after a resume."""
    settings = OptimiserSettings(kind="radam", lr=1e-2)
    start = torch.linspace(-1, 1, 6)
    slow = nn.Parameter(start.clone())
    theirs = torch.optim.RAdam([slow], lr=1e-2, betas=settings.betas, eps=settings.eps)
    runs = []
    for stop in (None, 12):
        named = {"w": nn.Parameter(start.clone())}
        optimiser = build_optimiser(named, settings)
        for step in range(20):
            if step == stop:
                optimiser = _from_its_state(optimiser, named, settings)
            if step >= 8:
                named["w"].grad = torch.sin(named["w"].detach() * (step + 1))
                if stop is None:
                    slow.grad = torch.sin(slow.detach() * (step + 1))
                    theirs.step()
            optimiser.step()
        runs.append(named["w"].detach().clone())
    assert torch.equal(runs[0], runs[1])
    torch.testing.assert_close(runs[0], slow.detach(), rtol=1e-5, atol=1e-6)
