"""A training step against that of diffusers' unconditional example, with the same weights and batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from benchmarks.networks import RGB32, model_of, twin_of
from benchmarks.timing import alternate, ratio
from suffuse.base.batch import Batch
from suffuse.base.randomness import Draws
from suffuse.networks.precision import autocast
from suffuse.objectives import Denoising
from suffuse.process import UniformIndices
from suffuse.training.settings import OptimiserSettings, TrainingSettings
from suffuse.training.trainer import Trainer
from suffuse.training.world import World

__all__ = ["measure"]

_BATCH = 16


class _Example:
    """What the example does in a step: noise, loss, backward, clip, AdamW, cosine schedule, EMA."""

    def __init__(self, twin: nn.Module, precision: Literal["float32", "bfloat16"]) -> None:
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        self.model, self.precision = twin.train(), precision
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.optimiser = torch.optim.AdamW(twin.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
        self.rate = get_scheduler("cosine", self.optimiser, num_warmup_steps=500, num_training_steps=10000)
        self.ema = EMAModel(twin.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)

    def step(self, clean: torch.Tensor) -> None:
        """One step."""
        noise = torch.randn_like(clean)
        times = torch.randint(0, 1000, (len(clean),))
        noisy = self.scheduler.add_noise(clean, noise, times)
        with autocast(clean.device, self.precision):
            predicted = self.model(noisy, times).sample
        loss = nn.functional.mse_loss(predicted.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.rate.step()
        self.optimiser.zero_grad()
        self.ema.step(self.model.parameters())


def _row(precision: Literal["float32", "bfloat16"], rounds: int) -> tuple[str, str, str]:
    model = model_of(*RGB32)
    example = _Example(twin_of(model), precision)
    settings = TrainingSettings(batch=_BATCH, precision=precision)
    objective = Denoising(noise_levels=UniformIndices())
    trainer = Trainer(model, objective, settings, OptimiserSettings(), World(0, 1, torch.device("cpu")))
    clean = torch.rand(_BATCH, *RGB32[1]) * 2 - 1
    draws = Draws(0, torch.arange(_BATCH), total=_BATCH)
    ways = {
        "ours": lambda: trainer.train_step(Batch(x0=clean), draws.at(trainer.step)),
        "example": lambda: example.step(clean),
    }
    times = alternate(ways, rounds=rounds)
    middle, low, high = ratio(times["example"], times["ours"])
    what = f"training step, diffusers' unconditional example over ours, {precision} (U-Net 6 M, batch 16)"
    return what, f"{middle:.3f} ({low:.3f} to {high:.3f})", "at least 1.2"


def measure(rounds: int) -> list[tuple[str, str, str]]:
    """Rows of (what, figure, goal)."""
    return [_row("float32", rounds), _row("bfloat16", rounds)]
