"""Sampling: the loop's cost over bare forwards, and against diffusers' loop with the same weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn

from benchmarks.networks import DIGITS, RGB32, model_of, twin_of
from benchmarks.timing import alternate, ratio
from suffuse.models.denoiser import Denoiser
from suffuse.sampling import DDIM, Uniform, sample

__all__ = ["measure"]

_STEPS = 10


def _ours(model: Denoiser, batch: int, precision: Literal["float32", "bfloat16"] = "float32") -> None:
    sample(model, batch, solver=DDIM(), grid=Uniform(steps=_STEPS), batch=batch, precision=precision)


def _bare(model: Denoiser, batch: int) -> None:
    assert model.config is not None
    x, told = torch.randn(batch, *model.config.shape), torch.full((batch,), 500.0)
    with torch.no_grad():
        for _ in range(_STEPS):
            model.network(x, told)


def _diffusers(twin: nn.Module, batch: int, shape: tuple[int, ...], *, channels_last: bool = False) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(_STEPS)
    x = torch.randn(batch, *shape).to(next(twin.parameters()).dtype)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(twin(x, t).sample, t, x).prev_sample


def _against_diffusers(rounds: int) -> list[tuple[str, str, str]]:
    """In like settings, and the fastest of what each side documents: layouts, and bfloat16."""
    model, shape = model_of(*RGB32), RGB32[1]
    plain = model_of(RGB32[0].replace(channels_last=False), shape)
    plain.network.load_state_dict(model.network.state_dict())
    twins = {
        f"{dtype}, {layout}": twin_of(model).to(getattr(torch, dtype)).to(memory_format=getattr(torch, layout))
        for dtype in ("float32", "bfloat16")
        for layout in ("contiguous_format", "channels_last")
    }
    ours: dict[str, Callable[[], None]] = {
        "ours float32, contiguous": lambda: _ours(plain, 16),
        "ours float32": lambda: _ours(model, 16),
        "ours bfloat16": lambda: _ours(model, 16, "bfloat16"),
    }
    theirs: dict[str, Callable[[], None]] = {
        name: functools.partial(_diffusers, twin, 16, shape, channels_last=name.endswith("last"))
        for name, twin in twins.items()
    }
    times = alternate(ours | theirs, rounds=rounds)

    def best(names: Iterable[str]) -> str:
        return min(names, key=lambda name: times[name].median)

    rows = []
    for what, a, b, goal in (
        (
            "like settings (float32, contiguous)",
            "float32, contiguous_format",
            "ours float32, contiguous",
            "at least 1.0",
        ),
        ("each at its best in float32", best(n for n in theirs if "float32" in n), "ours float32", "-"),
        ("each at its best", best(theirs), best(ours), "at least 1.2"),
    ):
        middle, low, high = ratio(times[a], times[b])
        named = f"sampling, diffusers over ours, {what}: {a} over {b}"
        rows.append((named, f"{middle:.3f} ({low:.3f} to {high:.3f})", goal))
    return rows


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
    return rows + _against_diffusers(rounds)
