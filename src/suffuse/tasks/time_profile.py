"""Instruments along the time axis: how fast a trained network changes in t, its loss, and the noise of its gradients.

Times are given as steps out of `STEPS`: index i of a table of a thousand, or the time (i + 1) / 1000 of the way from
clean data to the prior on any other path, so that the same step means the same on every path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suffuse.base.conditions import Conditions
from suffuse.base.randomness import keys, normal, uniform
from suffuse.data import Dataset
from suffuse.metrics import time_lipschitz
from suffuse.models.denoiser import Denoiser
from suffuse.objectives import denoising_loss
from suffuse.process import PathPart, WeightingPart, perturb

__all__ = ["STEPS", "Gradients", "gradients_at", "network_lipschitz", "noise_error", "path_time", "told_alike"]

STEPS = 1000


def path_time(path: PathPart, step: float) -> float:
    """The path's own time at a step: the index itself on a table of `STEPS`, else (step + 1) / STEPS of the way."""
    if path.indices == STEPS:
        return float(step)
    return path.t_clean + (step + 1) / STEPS * (path.t_max - path.t_clean)


@dataclass(frozen=True)
class _Sampled:
    """Data and noise that stay the same whatever model is looked at, so that models are compared pair by pair."""

    x0: Tensor
    eps: Tensor
    cond: Conditions

    @classmethod
    def of(cls, model: Denoiser, data: Dataset, samples: int, seed: int) -> _Sampled:
        numbers = torch.arange(samples)
        index = (uniform(keys(seed, "profile: images", 0, numbers))[:, 0] * len(data)).long()
        batch = data.batch(index).to(model.device)
        assert batch.x0 is not None
        eps = normal(keys(seed, "profile: eps", 0, numbers), tuple(batch.x0.shape[1:])).to(model.device)
        return cls(batch.x0, eps, model.conditioner.observe(batch.x0, batch.cond))

    def at(self, model: Denoiser, t: float) -> Tensor:
        """Noisy samples at one time, (B, ...)."""
        level = model.path.level(t)
        return level.alpha * self.x0 + level.sigma * self.eps


@torch.no_grad()
def network_lipschitz(
    model: Denoiser, data: Dataset, steps: Sequence[float], *, samples: int = 64, seed: int = 0
) -> Tensor:
    """K(t) of the network's own output F over one step in a thousand, per length of the path: (len(steps),) float64.

    Args:
        model: In evaluation mode.
        data: Where x0 comes from.
        steps: Steps out of `STEPS`, see `path_time`.
        samples: Noisy samples at each time.
        seed: Of images and noise.
    """
    drawn = _Sampled.of(model, data, samples, seed)
    span = path_time(model.path, STEPS - 1) - model.path.t_clean
    return time_lipschitz(
        lambda x, t: model.evaluate(x, t, drawn.cond).raw,
        lambda t: drawn.at(model, t),
        [path_time(model.path, step) for step in steps],
        path_time(model.path, 1) - path_time(model.path, 0),
        span=span,
    )


def told_alike(model: Denoiser, steps: Sequence[float]) -> list[bool]:
    """Whether the network is told the same at each step and at the next one."""
    pairs = [[path_time(model.path, step + shift) for step in steps] for shift in (0, 1)]
    here, there = (model.time.told(torch.tensor(times, dtype=torch.float64), model.path).float() for times in pairs)
    return [bool(same) for same in here == there]


@torch.no_grad()
def noise_error(
    model: Denoiser, data: Dataset, first: int, last: int, *, samples: int = 1024, seed: int = 0, batch: int = 256
) -> float:
    """Mean squared error of the estimated noise per element, over steps first..last-1 evenly.

    Whatever the network predicts, its estimate is turned into noise: models of all predictions compare, on one path. On
    another path the same steps are other noise levels.
    """
    drawn = _Sampled.of(model, data, samples, seed)
    spread = first + (torch.arange(samples) * (last - first) / samples).floor()
    t = torch.tensor([path_time(model.path, step) for step in spread.tolist()], dtype=torch.float64)
    t = t.to(model.device)
    total = 0.0
    for rows in (slice(start, start + batch) for start in range(0, samples, batch)):
        x = perturb(model.path, drawn.x0[rows], drawn.eps[rows], t[rows])
        error = model.evaluate(x, t[rows], drawn.cond[rows]).eps - drawn.eps[rows]
        total += error.double().square().flatten(1).mean(1).sum().item()
    return total / samples


@dataclass(frozen=True)
class Gradients:
    """How steady the training signal is within a range of times.

    Attributes:
        norm: Norm of the mean gradient over all batches.
        norm_spread: Standard deviation of the batches' gradient norms over their mean.
        signal: Squared norm of the true mean gradient over the variance of a batch's: signal to noise. Unbiased, so
            that it may come out a little below 0 where there is hardly any signal.
        loss_spread: Standard deviation of the batches' losses over their mean.
    """

    norm: float
    norm_spread: float
    signal: float
    loss_spread: float


def gradients_at(
    model: Denoiser,
    data: Dataset,
    weighting: WeightingPart,
    first: int,
    last: int,
    *,
    batches: int = 16,
    batch: int = 64,
    seed: int = 0,
) -> Gradients:
    """Gradients of the weighted denoising loss for batches whose steps lie in first..last-1.

    The weights stay as they are; the model's gradients are neither read nor written.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    drawn = _Sampled.of(model, data, batches * batch, seed)
    u = uniform(keys(seed, "profile: times", 0, torch.arange(batches * batch)))[:, 0]
    steps = (first + u * (last - first)).floor()
    t = torch.tensor([path_time(model.path, step) for step in steps.tolist()], dtype=torch.float64).to(model.device)
    losses, gradients = [], []
    for rows in (slice(start, start + batch) for start in range(0, batches * batch, batch)):
        x = perturb(model.path, drawn.x0[rows], drawn.eps[rows], t[rows])
        loss = denoising_loss(model.evaluate(x, t[rows], drawn.cond[rows]), drawn.x0[rows], weighting).mean()
        losses.append(loss.detach().double())
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        gradients.append(nn.utils.parameters_to_vector(found).double())
    stacked, values = torch.stack(gradients), torch.stack(losses)
    mean, norms = stacked.mean(0), stacked.norm(dim=1)
    variance = (stacked - mean).square().sum(1).sum() / (batches - 1)
    return Gradients(
        norm=mean.norm().item(),
        norm_spread=(norms.std() / norms.mean()).item(),
        # The mean of n gradients holds an n-th of their variance, which is no signal.
        signal=((mean.square().sum() - variance / batches) / variance).item(),
        loss_spread=(values.std() / values.mean()).item(),
    )
