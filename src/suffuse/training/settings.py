"""Settings of a training run: the optimiser, the length, how samples are drawn and judged."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from suffuse.acceleration import NoPlan, Plan
from suffuse.base.part import Part
from suffuse.sampling import DPMSolverPP, Grid, Guidance, NoGuidance, Solver, Uniform

__all__ = ["EvaluationSettings", "OptimiserSettings", "SamplingSettings", "TrainingSettings"]


_Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimiserSettings(Part):
    """AdamW or RAdam with warm-up and decay.

    Attributes:
        kind: `radam` warms up by itself and is what the consistency papers train with.
        lr: Learning rate after warm-up.
        betas: Decays of the two moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled; 0 is Adam.
        warmup: Steps over which the rate rises linearly from 0.
        decay: How it falls from `decay_from` on; it would reach 0 one step after the last.
        decay_from: Share of the run after which it falls.
        clip: Largest norm of the gradient; None for no clipping.
    """

    kind: Literal["adamw", "radam"] = "adamw"
    lr: float = Field(default=2e-4, gt=0)
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=0, ge=0)
    decay: Literal["none", "linear", "cosine"] = "none"
    decay_from: float = Field(default=0.0, ge=0, lt=1)
    clip: float | None = Field(default=1.0, gt=0)


class TrainingSettings(Part):
    """How long and how.

    Attributes:
        steps: Steps of the optimiser.
        minutes: Budget of time instead; it is turned into steps before training, on the machine at hand.
        batch: Images per step, over all processes and accumulated parts.
        accumulate: Parts into which each process divides its share of the batch.
        ema: Half-lives of the averages in images; the first is the primary one.
        ema_ramp: Share of the images seen that bounds every half-life.
        precision: Of the network's matrix products; the rest stays float32.
        compile: Compile the network (minutes on a CPU; pays on long GPU runs).
        flip: Mirror half of the images.
        seed: Of weights, data order and noise.
        device: auto, cpu, cuda or cuda:N.
        log_every: Steps between lines of metrics.
        sample_every: Steps between sample sheets; 0 for none.
        samples: Images of a sample sheet.
        checkpoint_every: Steps between checkpoints.
        keep: Checkpoints that stay.
        tensorboard: Write TensorBoard files too.
    """

    steps: int = Field(default=10_000, ge=1)
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    batch: int = Field(default=128, ge=1)
    accumulate: int = Field(default=1, ge=1)
    ema: tuple[float, ...] = Field(default=(500_000.0,), min_length=1)
    ema_ramp: float = Field(default=0.05, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    flip: bool = False
    seed: int = 0
    device: str = "auto"
    log_every: int = Field(default=50, ge=1)
    sample_every: int = Field(default=0, ge=0)
    samples: int = Field(default=64, ge=1)
    checkpoint_every: int = Field(default=1000, ge=1)
    keep: int = Field(default=2, ge=1)
    tensorboard: bool = False

    @model_validator(mode="after")
    def _positive_half_lives(self) -> TrainingSettings:
        names = {f"{half_life:.0f}" for half_life in self.ema if math.isfinite(half_life) and half_life > 0}
        if len(names) < len(self.ema):
            raise ValueError(f"ema {self.ema} must be different half-lives above 0, in whole images")
        return self


class SamplingSettings(Part):
    """How a model is sampled when nothing else is said.

    Attributes:
        solver, grid, guidance: The way from noise to data.
        plan: What of the network is left out or reused on it, see `suffuse.acceleration`.
        batch: Samples at a time.
        precision: Of the network's matrix products; the sampler's state stays float32.
    """

    solver: Solver = DPMSolverPP()
    grid: Grid = Uniform(steps=20)
    guidance: Guidance = NoGuidance()
    plan: Plan = NoPlan()
    batch: int = Field(default=256, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"


class EvaluationSettings(Part):
    """How a model is judged when nothing else is said.

    Attributes:
        samples: Number of samples for the distances.
        seed: Of those samples; different from the training's so that nothing is shared.
        nearest: Samples whose nearest training image is looked up.
    """

    samples: int = Field(default=1000, ge=2)
    seed: int = 1
    nearest: int = Field(default=256, ge=1)
