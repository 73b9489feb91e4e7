"""Sampling: the loop's cost over bare forwards, and against diffusers' loop with the same weights."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.networks import DIGITS, RGB32, model_of, twin_of
from benchmarks.timing import alternate, ratio
from suffuse.models.denoiser import Denoiser
from suffuse.sampling import DDIM, Uniform, sample

__all__ = ["measure"]

_STEPS = 10


def _ours(model: Denoiser, batch: int) -> None:
    assert model.config is not None
    sample(model, batch, shape=model.config.shape, solver=DDIM(), grid=Uniform(steps=_STEPS), batch=batch)


def _bare(model: Denoiser, batch: int) -> None:
    assert model.config is not None
    x, told = torch.randn(batch, *model.config.shape), torch.full((batch,), 500.0)
    with torch.no_grad():
        for _ in range(_STEPS):
            model.network(x, told)


def _diffusers(twin: nn.Module, batch: int, shape: tuple[int, ...], *, channels_last: bool) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(_STEPS)
    x = torch.randn(batch, *shape)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(twin(x, t).sample, t, x).prev_sample


def measure(rounds: int) -> list[tuple[str, str, str]]:
    """Rows of (what, figure, goal)."""
    rows = []
    for name, (network, shape), batch, goal in (
        ("U-Net 6 M, 32x32, batch 16", RGB32, 16, "at most 1.03"),
        ("digits network, batch 256", DIGITS, 256, "at most 1.10"),
    ):
        model = model_of(network, shape)
        times = alternate(
            {"ours": lambda m=model, b=batch: _ours(m, b), "bare": lambda m=model, b=batch: _bare(m, b)}, rounds=rounds
        )
        middle, low, high = ratio(times["ours"], times["bare"])
        rows.append((f"sampling over NFE x bare forward: {name}", f"{middle:.3f} ({low:.3f} to {high:.3f})", goal))
    model = model_of(*RGB32)
    twin, best = twin_of(model), twin_of(model).to(memory_format=torch.channels_last)
    plain = model_of(RGB32[0].replace(channels_last=False), RGB32[1])
    plain.network.load_state_dict(model.network.state_dict())
    ways = {
        "ours": lambda: _ours(model, 16),
        "ours, like settings": lambda: _ours(plain, 16),
        "diffusers": lambda: _diffusers(twin, 16, RGB32[1], channels_last=False),
        "diffusers, channels last": lambda: _diffusers(best, 16, RGB32[1], channels_last=True),
    }
    times = alternate(ways, rounds=rounds)
    fastest = min(("diffusers", "diffusers, channels last"), key=lambda name: times[name].median)
    for what, a, b, goal in (
        (
            "diffusers over ours, like settings (contiguous, float32)",
            "diffusers",
            "ours, like settings",
            "at least 1.0",
        ),
        (f"diffusers over ours, each at its best (theirs: {fastest})", fastest, "ours", "at least 1.2"),
    ):
        middle, low, high = ratio(times[a], times[b])
        rows.append((what, f"{middle:.3f} ({low:.3f} to {high:.3f})", goal))
    return rows
