"""CFG++: guided data and unconditional noise, which on DDIM is CFG at a scale that the step decides."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, PathPart
from suffuse.sampling import CFG, DDIM, DDPM, CFGPlusPlus, Estimate, GuidancePart, Karras, UniPC, sample

COND = Conditions.of(label=torch.tensor([0, 1, 2, 2, 1]))
X = 2 * Draws(0, torch.arange(5)).normal("start", (1,)).double()
LAMBDAS = torch.linspace(-2.5, 2.5, 7, dtype=torch.float64)


def _walk(model: ExactMixture, times: list[float], guidance_at: Callable[[float], GuidancePart]) -> Tensor:
    """DDIM with a guidance for each step's width in half log-SNR."""
    path, solver = model.path, DDIM()
    x, state = X * float(path.level(times[0]).sigma), solver.init(X, times, path)
    for i in range(len(times) - 1):
        here, there = (float(level.half_log_snr) for level in state.levels[i : i + 2])
        guided = guidance_at(there - here).bind(
            lambda x, t, cond, call: Estimate(model.denoise(x, t, cond, call)), path
        )

        def denoise(x: Tensor, t: float, substep: int = 0, target: float | None = None) -> Estimate:
            return guided(x, t, COND, Call(step=i))  # noqa: B023  # called within the step

        x, state = solver.step(denoise, x, state, i, Draws(0, torch.arange(5)).at(i))
    return x


@pytest.mark.parametrize("scale", [0.25, 0.6, 1.0])
def test_on_ddim_it_is_cfg_at_a_scale_that_grows_as_steps_shrink(
    path: PathPart, scale: float, mixture: Callable[[PathPart], ExactMixture]
) -> None:
    model, times = mixture(path), [*path.t_of(LAMBDAS).tolist(), path.t_clean]
    found = _walk(model, times, lambda h: CFGPlusPlus(scale=scale))
    expected = _walk(model, times, lambda h: CFG(scale=scale / -math.expm1(-h)))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_steps_go_on_with_the_unconditional_noise(eta: float, mixture: Callable[[PathPart], ExactMixture]) -> None:
    model, solver, draws = mixture(EDM()), DDIM(eta=eta), Draws(3, torch.arange(5))
    state = solver.init(X, [2.0, 1.0], EDM())
    guided = CFGPlusPlus(scale=0.4).bind(lambda x, t, cond, call: Estimate(model.denoise(x, t, cond)), EDM())
    found, _ = solver.step(lambda x, t, substep=0, target=None: guided(x, t, COND, Call()), X, state, 0, draws)
    uncond, given = model.denoise(X, 2.0), model.denoise(X, 2.0, COND)
    fresh = eta * math.sqrt(1 - 0.5**2)
    expected = uncond + 0.4 * (given - uncond) + math.sqrt(1 - fresh**2) * (X - uncond) / 2
    torch.testing.assert_close(found, expected + fresh * draws.normal("solver", (1,)).double(), rtol=1e-12, atol=1e-12)


def test_scale_zero_is_unconditional_and_one_call(mixture: Callable[[PathPart], ExactMixture]) -> None:
    options = {"shape": (1,), "solver": DDIM(), "grid": Karras(steps=5)}
    found = sample(mixture(EDM()), 5, cond=COND, guidance=CFGPlusPlus(scale=0.0), **options)  # type: ignore[arg-type]  # options of several types
    assert torch.equal(found.x, sample(mixture(EDM()), 5, **options).x)  # type: ignore[arg-type]  # as above
    assert (found.nfe, CFGPlusPlus(scale=0.0).most_evaluations) == (5, 1)


def test_halves_together_and_apart_and_within_an_interval(mixture: Callable[[PathPart], ExactMixture]) -> None:
    def run(guidance: GuidancePart) -> tuple[Tensor, float]:
        made = sample(mixture(EDM()), 5, shape=(1,), solver=DDPM(), grid=Karras(steps=6), cond=COND, guidance=guidance)
        return made.x, made.nfe

    whole, cost = run(CFGPlusPlus())
    assert cost == 12
    assert torch.equal(whole, run(CFGPlusPlus(together=False))[0])
    assert torch.equal(whole, run(CFGPlusPlus(above=0, up_to=math.inf))[0])
    outside, cost = run(CFGPlusPlus(above=1e6))
    assert torch.equal(outside, run(CFG())[0])
    assert cost == 6


def test_what_it_cannot_do_is_refused(mixture: Callable[[PathPart], ExactMixture]) -> None:
    model, guidance = mixture(EDM()), CFGPlusPlus(scale=0.6)
    with pytest.raises(UsageError, match="solver 'unipc' has no place for; use solver ddim or ddpm"):
        sample(model, 5, shape=(1,), solver=UniPC(), cond=COND, guidance=guidance)
    with pytest.raises(UsageError, match=r"cfgpp with scale 0\.6 needs conditions"):
        sample(model, 5, shape=(1,), solver=DDIM(), guidance=guidance)
