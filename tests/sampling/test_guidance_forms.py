"""Forms of classifier-free guidance: rescaled, projected, in other conventions; absent where they say nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, VP, PathPart
from suffuse.sampling import APG, CFG, Estimate, Heun, Karras, sample, scale_from

COND = Conditions.of(label=torch.zeros(4, dtype=torch.int64))
SHAPE = (3, 5, 5)


def _noise(name: str, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return Draws(sum(map(ord, name)), torch.arange(4)).normal("start", shape).double()


class Two:
    """A model with an estimate for each half, which change from call to call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
        assert cond is not None
        self.calls += 1
        rows = [(0.3 * x + 0.1 * self.calls).tanh(), (0.5 * x - 0.2 * self.calls).tanh()]
        given = cond.present["label"].view(-1, *(1,) * (x.ndim - 1))
        return Estimate(torch.where(given, rows[1], rows[0]))


def test_other_conventions() -> None:
    assert [scale_from(3.0, name) for name in ("scale", "paper", "perturbed")] == [3.0, 4.0, 4.0]
    assert (scale_from(2.0, "classifier"), scale_from(2.0, "classifier_conditional")) == (2.0, 3.0)
    with pytest.raises(UsageError, match="did you mean 'paper'"):
        scale_from(1.0, "papers")


@pytest.mark.parametrize("part", [APG(scale=4.0, along=1.0), CFG(scale=4.0, rescale=0.0)], ids=repr)
def test_at_their_neutral_settings_they_are_cfg(part: CFG) -> None:
    x, path = _noise("x"), VP()
    plain = CFG(scale=4.0).bind(Two(), path)(x, 0.4, COND, Call(step=0)).x0
    torch.testing.assert_close(part.bind(Two(), path)(x, 0.4, COND, Call(step=0)).x0, plain, rtol=1e-12, atol=1e-12)


def test_at_scale_one_they_are_a_single_call() -> None:
    for part in (APG(momentum=-0.5, longest=1.0), CFG(rescale=0.7)):
        model = Two()
        x = _noise("x")
        found = part.bind(model, VP())(x, 0.4, COND, Call()).x0
        assert model.calls == 1
        assert torch.equal(found, (0.5 * x - 0.2).tanh())


@pytest.mark.parametrize("momentum", [0.0, -0.5])
@pytest.mark.parametrize("longest", [math.inf, 2.5])
@pytest.mark.parametrize("along", [0.0, 0.3])
def test_projected_guidance_is_the_reference_s(momentum: float, longest: float, along: float) -> None:
    reference = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    memory = reference.MomentumBuffer(momentum) if momentum else None
    part, model, path = APG(scale=7.5, along=along, longest=longest, momentum=momentum), Two(), VP()
    guided = part.bind(model, path)
    for step in range(4):
        x = _noise(f"x{step}")
        uncond, given = (0.3 * x + 0.1 * (step + 1)).tanh(), (0.5 * x - 0.2 * (step + 1)).tanh()
        limit = 0.0 if math.isinf(longest) else longest
        expected = reference.normalized_guidance(given, uncond, 6.5, memory, along, limit, True)
        found = guided(x, 0.4, COND, Call(step=step)).x0
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_evaluations_within_a_step_share_what_was_gathered_before_it() -> None:
    x, path, part = _noise("x"), VP(), APG(scale=3.0, along=1.0, momentum=-0.5)

    def difference(calls: int) -> Tensor:
        return (0.5 * x - 0.2 * calls).tanh() - (0.3 * x + 0.1 * calls).tanh()

    guided = part.bind(Two(), path)
    guided(x, 0.5, COND, Call(step=0))
    second = guided(x, 0.4, COND, Call(step=0, substep=1)).x0
    torch.testing.assert_close(second, (0.5 * x - 0.4).tanh() + 2 * difference(2))
    third = guided(x, 0.3, COND, Call(step=1)).x0
    torch.testing.assert_close(third, (0.5 * x - 0.6).tanh() + 2 * (difference(3) - 0.5 * difference(1)))


def test_each_trajectory_has_a_memory_of_its_own(mixture: Callable[[PathPart], ExactMixture]) -> None:
    labels = Conditions.of(label=torch.tensor([0, 1, 2, 1, 0, 2]))
    options: dict[str, Any] = {
        "shape": (1,),
        "solver": Heun(),
        "grid": Karras(steps=6),
        "guidance": APG(scale=3.0, along=1.0, momentum=-0.5),
        "cond": labels,
    }
    whole, parts = (sample(mixture(EDM()), 6, batch=batch, **options).x for batch in (6, 2))
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("space", ["v", "x0", "eps"])
def test_rescaled_guidance_has_the_conditional_deviation(space: Any) -> None:
    x, path, t = _noise("x"), VP(), 0.4
    level = path.level(t)

    def seen(x0: Tensor) -> Tensor:
        eps = (x - level.alpha * x0) / level.sigma
        return {"x0": x0, "eps": eps, "v": level.alpha * eps - level.sigma * x0}[space]

    def run(rescale: float) -> Tensor:
        return CFG(scale=6.0, rescale=rescale, rescale_in=space).bind(Two(), path)(x, t, COND, Call()).x0

    given = (0.5 * x - 0.2).tanh()
    torch.testing.assert_close(seen(run(1.0)).std((1, 2, 3)), seen(given).std((1, 2, 3)), rtol=1e-9, atol=1e-9)
    half = 0.5 * seen(run(1.0)) + 0.5 * seen(run(0.0))
    torch.testing.assert_close(seen(run(0.5)), half, rtol=1e-9, atol=1e-9)


def test_rescaling_the_noise_is_diffusers_form() -> None:
    reference = pytest.importorskip("diffusers.guiders.guider_utils")
    x, path, t = _noise("x"), VP(), 0.4
    level = path.level(t)
    uncond, given = (0.3 * x + 0.1).tanh(), (0.5 * x - 0.2).tanh()
    eps = [(x - level.alpha * x0) / level.sigma for x0 in (uncond, given)]
    expected = reference.rescale_noise_cfg(eps[0] + 6.0 * (eps[1] - eps[0]), eps[1], 0.7)
    found = CFG(scale=6.0, rescale=0.7, rescale_in="eps").bind(Two(), path)(x, t, COND, Call()).x0
    torch.testing.assert_close((x - level.alpha * found) / level.sigma, expected, rtol=1e-9, atol=1e-9)


def test_projected_guidance_at_scale_zero_is_its_own_limit() -> None:
    x = _noise("x")
    part = APG(scale=0.0, along=0.3, longest=0.5)
    zero, near = (part.replace(scale=s).bind(Two(), VP())(x, 0.4, COND, Call(step=0)).x0 for s in (0.0, 1e-9))
    assert (part.most_evaluations, CFG(scale=0.0).most_evaluations) == (2, 1)
    torch.testing.assert_close(zero, near, atol=1e-7, rtol=0)
