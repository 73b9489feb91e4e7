"""The optimiser: AdamW or RAdam in one update, its learning rate by step, and its state by parameter name."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from suffuse.training.radam import RAdam
from suffuse.training.settings import OptimiserSettings

__all__ = ["build_optimiser", "learning_rate", "load_optimiser_state", "optimiser_state"]


def build_optimiser(named: Mapping[str, nn.Parameter], settings: OptimiserSettings) -> torch.optim.Optimizer:
    """One fused update for all parameters."""
    params, lr, betas = list(named.values()), settings.lr, settings.betas
    if settings.kind == "radam":
        return RAdam(params, lr=lr, betas=betas, eps=settings.eps, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(
        params, lr=lr, betas=betas, eps=settings.eps, weight_decay=settings.weight_decay, fused=True
    )


def learning_rate(settings: OptimiserSettings, step: int, total: int) -> float:
    """Learning rate of a step, from 0, of `total`."""
    rate = settings.lr * min(1.0, (step + 1) / max(settings.warmup, 1))
    start = settings.decay_from * total
    done = max(0.0, (step - start) / max(total - start, 1))
    if settings.decay == "linear":
        return rate * (1 - done)
    if settings.decay == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * done))
    return rate


def optimiser_state(
    optimiser: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]
) -> dict[str, dict[str, Tensor]]:
    """Moments and counts by parameter name."""
    return {name: dict(optimiser.state[p]) for name, p in named.items() if p in optimiser.state}


def load_optimiser_state(
    optimiser: torch.optim.Optimizer,
    named: Mapping[str, nn.Parameter],
    state: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Take moments and counts back, onto the device of each parameter (counts stay where fused updates want them)."""
    for name, p in named.items():
        if name in state:
            optimiser.state[p] = {key: value.clone().to(p.device) for key, value in state[name].items()}
