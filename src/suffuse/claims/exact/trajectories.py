"""True trajectories of the probability-flow ODE on known densities, and how far solvers end from them.

On y = x / sigma the ODE is dy/dlambda = exp(lambda) x0(x), lambda the half log-SNR, whatever the path; so one
trajectory, kept as x / alpha, is that of all paths. On Gaussian data the estimate is affine in x, and the law in which
a stochastic solver ends is known from a few probes, without sampling.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from suffuse.base.randomness import Draws
from suffuse.data import GaussianMixture
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, PathPart
from suffuse.sampling import Estimate, SolverPart
from suffuse.sampling.solvers import OnGrid

__all__ = [
    "DENSITIES",
    "FROM",
    "TO",
    "Density",
    "error",
    "grid_times",
    "integrate",
    "moments",
    "one_normal",
    "ring",
    "slope",
    "three_normals",
    "trajectory",
    "variance_error",
]

Density = Literal["three", "ring"]

FROM, TO = -3.0, 3.0  # half log-SNRs between which trajectories run: noise with a trace of data, data with 5 % of noise
_STARTS = 64


def three_normals(path: PathPart) -> ExactMixture:
    """Three Gaussians on a line, far enough from one Gaussian for high orders to show."""
    weights, means = torch.tensor([0.3, 0.5, 0.2]), torch.tensor([[-1.5], [0.4], [2.0]])
    return ExactMixture(path, weights, means, torch.tensor([0.35, 0.5, 0.25]))


def ring(path: PathPart) -> ExactMixture:
    """Eight Gaussians on a ring in the plane."""
    return ExactMixture(path, *GaussianMixture.ring().parameters())


def one_normal(path: PathPart) -> ExactMixture:
    """Data N(0.7, 0.4**2): the estimate is affine in x, so solvers are affine in the start and the noise."""
    mean, std = torch.full((1, 1), 0.7, dtype=torch.float64), torch.full((1,), 0.4, dtype=torch.float64)
    return ExactMixture(path, torch.ones(1), mean, std)


DENSITIES: dict[Density, Callable[[PathPart], ExactMixture]] = {"three": three_normals, "ring": ring}


def grid_times(path: PathPart, steps: int) -> list[float]:
    """Falling times of evenly spaced half log-SNRs."""
    return path.t_of(torch.linspace(FROM, TO, steps + 1, dtype=torch.float64)).tolist()


@functools.lru_cache(maxsize=8)
def trajectory(density: Density, seed: int, nodes: int, substeps: int) -> Tensor:
    """x / alpha at evenly spaced half log-SNRs, (nodes + 1, B, D) float64; on every path.

    Classical Runge-Kutta: its error falls with the fourth power, and is 1e-13 at 5000 steps in all.

    Args:
        density: Of the data.
        seed: Of the starts.
        nodes: Intervals between the values that are kept.
        substeps: Steps in each of them.
    """
    model = DENSITIES[density](EDM())
    h = (TO - FROM) / (nodes * substeps)

    def change(lam: float, y: Tensor) -> Tensor:
        rho = math.exp(-lam)
        return model.denoise(rho * y, rho) / rho

    y = Draws(seed, torch.arange(_STARTS)).normal("start", (model.means.shape[1],)).double()
    kept = [math.exp(-FROM) * y]
    for k in range(nodes * substeps):
        lam = FROM + k * h
        a = change(lam, y)
        b = change(lam + h / 2, y + h / 2 * a)
        c = change(lam + h / 2, y + h / 2 * b)
        y = y + h / 6 * (a + 2 * b + 2 * c + change(lam + h, y + h * c))
        if (k + 1) % substeps == 0:
            kept.append(math.exp(-(lam + h)) * y)
    return torch.stack(kept)


def integrate(
    solver: SolverPart, model: ExactMixture, x: Tensor, times: Sequence[float], noise: Draws | None = None
) -> Tensor:
    """The loop without its comforts: a solver's steps from x at times[0] to the last time, (B, D)."""
    noise = noise or Draws(0, torch.arange(len(x)))
    state = solver.init(x, times, model.path)
    for i in range(len(times) - 1):
        x, state = solver.step(_asking(model), x, state, i, noise.at(i))
    return x


def _asking(model: ExactMixture) -> Callable[..., Estimate]:
    return lambda x, t, substep=0, target=None: Estimate(model.denoise(x, t))


def error(solver: SolverPart, model: ExactMixture, truth: Tensor, steps: int, *, warm: int = 0) -> float:
    """RMS distance of a deterministic solver's end from the true trajectories', over starts and dimensions.

    Args:
        solver: Which.
        model: Of the trajectories' density, on any path.
        truth: From `trajectory`, (nodes + 1, B, D); nodes is a multiple of `steps` where `warm` is above 0.
        steps: Even ones in the half log-SNR.
        warm: So many first steps start from the true trajectory, which fills the solver's memory with exact values.
    """
    times, nodes, path = grid_times(model.path, steps), len(truth) - 1, model.path

    def exact(i: int) -> Tensor:
        return path.level(times[i]).alpha * truth[i * nodes // steps]

    noise = Draws(0, torch.arange(truth.shape[1]))
    x = exact(0)
    state = solver.init(x, times, path)
    for i in range(steps):
        if 0 < i <= warm:
            x, state = exact(i), _warmed(state, exact(i - 1))
        x, state = solver.step(_asking(model), x, state, i, noise.at(i))
    return (x - exact(steps)).square().mean().sqrt().item()


def _warmed(state: OnGrid, start: Tensor) -> OnGrid:
    """Correctors go back to where the step before started: that, too, is on the true trajectory."""
    corrector: dict[str, Any] = {field.name: start for field in fields(state) if field.name == "start"}
    return replace(state, **corrector)  # Any: fields of a state that has a corrector's


def slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """Order of convergence: least-squares slope of log error against log step width."""
    x = -torch.tensor(counts, dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).log()
    x = x - x.mean()
    return float((x @ y) / (x @ x))


class _Unit(Draws):
    """Noise of affine probes: row 2 + i gets a unit at step i, all else zero."""

    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        assert stream == "solver", "the probes expect one draw a step"
        noise = torch.zeros(len(self), *shape, dtype=torch.float64)
        noise[2 + self.step] = 1
        return noise


def moments(
    solver: SolverPart, model: ExactMixture, times: Sequence[float], mean: float, std: float
) -> tuple[float, float]:
    """Mean and variance with which a solver ends on Gaussian data, from a normal start, without sampling.

    The end is affine in the start and in each step's noise; a batch of probes reads off the coefficients.
    """
    steps = len(times) - 1
    x = torch.full((steps + 2, 1), mean, dtype=torch.float64)
    x[1] += std
    end = integrate(solver, model, x, times, _Unit(0, torch.arange(steps + 2)))
    return end[0].item(), (end[1:] - end[0]).square().sum().item()


def variance_error(solver: SolverPart, model: ExactMixture, steps: int) -> tuple[float, float]:
    """Error of the mean, and relative error of the variance, from the true marginal at `FROM` to that at `TO`."""
    times = grid_times(model.path, steps)
    (mean_in, variance_in), (mean_out, variance_out) = (_marginal(model, t) for t in (times[0], times[-1]))
    mean, variance = moments(solver, model, times, mean_in, math.sqrt(variance_in))
    return mean - mean_out, variance / variance_out - 1


def _marginal(model: ExactMixture, t: float) -> tuple[float, float]:
    """Mean and variance of noisy Gaussian data."""
    level = model.path.level(t)
    mean, std = model.means.item(), model.stds.item()
    return float(level.alpha * mean), float((level.alpha * std) ** 2 + level.sigma**2)
