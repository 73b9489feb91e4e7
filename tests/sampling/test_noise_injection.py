"""Noise injection: how much is added, when, and on every path alike."""

from __future__ import annotations

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.process import Flow
from suffuse.process.vp import VP
from suffuse.sampling import DDIM, DPMSolverPP, NoiseInjection, Uniform, sample


class Nothing:
    """A model that always estimates zero: samples fall with sigma alone, and what is added can be told."""

    estimate, device = "mean", torch.device("cpu")

    def __init__(self, path):
        self.path = path

    def denoise(self, x, t, cond=None, call=None):
        return torch.zeros_like(x)


@pytest.mark.parametrize("where", [VP(schedule="linear", steps=1000), Flow()], ids=lambda path: path.kind)
def test_so_much_of_the_starting_noise_comes_back(where):
    """With estimates of zero a step scales samples by its ratio of sigmas; what is added falls with them."""
    path, steps, guidance = where, 10, NoiseInjection(share=0.1, below=0.5)
    grid = Uniform(steps=steps, end="t_min")
    options = {"shape": (2,), "solver": DDIM(), "grid": grid, "dtype": torch.float64}
    plain = sample(Nothing(path), 3, **options).x
    moved = sample(Nothing(path), 3, guidance=guidance, **options).x
    times = grid.times(path)
    levels = [path.level(t) for t in times]
    unit = plain / float(levels[-1].sigma)
    late = [
        level
        for level in levels[1:-1]
        if (float(level.t) - path.t_clean) / (path.t_max - path.t_clean) < guidance.below
    ]
    assert late
    gathered = sum(
        0.1 * (float(level.alpha) ** 2 + float(level.sigma) ** 2) ** 0.5 * float(levels[-1].sigma) / float(level.sigma)
        for level in late
    )
    torch.testing.assert_close(moved - plain, gathered * unit)


def test_none_of_it_is_nothing_at_all():
    model = Nothing(Flow())
    plain = sample(model, 3, shape=(2,), solver=DDIM())
    assert torch.equal(sample(model, 3, shape=(2,), solver=DDIM(), guidance=NoiseInjection(share=0)).x, plain.x)
    assert torch.equal(sample(model, 3, shape=(2,), solver=DDIM(), guidance=NoiseInjection(below=0)).x, plain.x)


def test_solvers_that_remember_are_refused():
    with pytest.raises(UsageError, match="moves samples between steps"):
        sample(Nothing(Flow()), 3, shape=(2,), solver=DPMSolverPP(), guidance=NoiseInjection())


def test_a_pipeline_gets_it_by_a_callback():
    class Scheduler:
        timesteps = torch.tensor([900, 600, 300, 0])

    class Pipe:
        scheduler = Scheduler()

    start, latents = torch.ones(2), torch.zeros(2)
    callback = NoiseInjection(share=0.5, below=0.5).callback(start)
    added = [callback(Pipe(), step, None, {"latents": latents})["latents"][0].item() for step in range(4)]
    assert added == [0.0, 0.5, 0.5, 0.0]
