"""Measures along the time axis: the network's change in time, its error, the steadiness of its training signal."""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from suffuse.claims.measures.base import Bench, MeasurePart
from suffuse.objectives import Denoising
from suffuse.tasks.time_profile import gradients_at, network_lipschitz, noise_error, told_alike
from suffuse.training.metrics_log import read_metrics

__all__ = ["LOG_EVERY", "GradientProfile", "NoiseErrors", "TimeLipschitz", "TrainingSteadiness"]

LOG_EVERY = 10
"""Steps between the lines of an arm's log: the steadiness of training is read from it."""

_BANDS = (0, 100, 400, 1000)  # near clean data, in the middle, near noise


class TimeLipschitz(MeasurePart):
    """K(t) of the network's output, per length of the path: its mean near clean data, and along the path.

    Values: K_near and K_middle (means over the first hundred steps and over steps 400 to 499 of a thousand), K_first
    (the first step), K_inside (the largest where the network is told the same at both times; absent when it never is),
    and K@step.

    Attributes:
        samples: Noisy samples at each time.
        every: Every so many steps are looked at near clean data.
    """

    kind: Literal["time_lipschitz"] = "time_lipschitz"
    samples: int = Field(default=64, ge=1)
    every: int = Field(default=1, ge=1)
    source: ClassVar[tuple[str, ...]] = ("suffuse.tasks.time_profile",)
    _shown: ClassVar[tuple[int, ...]] = (0, 1, 2, 5, 10, 19, 20, 30, 39, 40, 59, 60, 79, 80, 99)

    def of(self, bench: Bench) -> dict[str, float]:
        """Means and a profile."""
        near = list(range(0, 100, self.every))
        middle = list(range(400, 500, 10))
        far = [150, 200, 300, 600, 800, 950]
        steps = sorted({*near, *middle, *far, *self._shown})
        found = dict(
            zip(
                steps, network_lipschitz(bench.run.model, bench.data, steps, samples=self.samples).tolist(), strict=True
            )
        )
        alike = dict(zip(steps, told_alike(bench.run.model, steps), strict=True))
        inside = [value for step, value in found.items() if alike[step]]
        return {
            "K_near": statistics.fmean(found[step] for step in near),
            "K_middle": statistics.fmean(found[step] for step in middle),
            "K_first": found[0],
            **({"K_inside": max(inside)} if inside else {}),
            **{f"K@{step}": found[step] for step in (*self._shown, *far)},
        }

    def smaller(self) -> TimeLipschitz:
        """Few samples at few times."""
        return self.replace(samples=2, every=50)


class NoiseErrors(MeasurePart):
    """Error of the estimated noise per element in three bands of time: eps_mse@0 (near clean data), @100, @400.

    Attributes:
        samples: Noisy samples in each band.
    """

    kind: Literal["noise_errors"] = "noise_errors"
    samples: int = Field(default=2048, ge=1)
    source: ClassVar[tuple[str, ...]] = ("suffuse.tasks.time_profile",)

    def of(self, bench: Bench) -> dict[str, float]:
        """Errors on training images with fresh noise."""
        return {
            f"eps_mse@{first}": noise_error(bench.run.model, bench.data, first, last, samples=self.samples)
            for first, last in pairwise(_BANDS)
        }

    def smaller(self) -> NoiseErrors:
        """Few samples."""
        return self.replace(samples=8)


class GradientProfile(MeasurePart):
    """Steadiness of loss and gradient at the averaged final weights, in three bands of time.

    Values, by band: grad_norm@0, grad_spread@0 (spread of the batches' gradient norms over their mean), grad_signal@0
    (signal to noise of the gradients), loss_spread@0.

    Attributes:
        batches, batch: How many batches of how many samples.
    """

    kind: Literal["gradients"] = "gradients"
    batches: int = Field(default=16, ge=2)
    batch: int = Field(default=64, ge=1)
    source: ClassVar[tuple[str, ...]] = ("suffuse.tasks.time_profile",)

    def of(self, bench: Bench) -> dict[str, float]:
        """With the weighting that the run was trained with."""
        objective = bench.run.recipe.objective if bench.run.recipe else Denoising()
        assert isinstance(objective, Denoising)
        values: dict[str, float] = {}
        for first, last in pairwise(_BANDS):
            found = gradients_at(
                bench.run.model,
                bench.data,
                objective.weighting,
                first,
                last,
                batches=self.batches,
                batch=self.batch,
            )
            values |= {
                f"grad_norm@{first}": found.norm,
                f"grad_spread@{first}": found.norm_spread,
                f"grad_signal@{first}": found.signal,
                f"loss_spread@{first}": found.loss_spread,
            }
        return values

    def smaller(self) -> GradientProfile:
        """Few small batches."""
        return self.replace(batches=2, batch=2)


class TrainingSteadiness(MeasurePart):
    """Spread of loss and gradient norm over the second half of training, from the run's log: train_grad_spread, ..."""

    kind: Literal["steadiness"] = "steadiness"
    source: ClassVar[tuple[str, ...]] = ()

    def of(self, bench: Bench) -> dict[str, float]:
        """Standard deviation over mean of the logged means, and the largest gradient norm over its mean."""
        rows = read_metrics(bench.run.folder)
        rows = rows[len(rows) // 2 :]
        norms, losses = [row["grad_norm"] for row in rows], [row["loss"] for row in rows]
        return {
            "train_grad_spread": statistics.pstdev(norms) / statistics.fmean(norms),
            "train_grad_peak": max(norms) / statistics.fmean(norms),
            "train_loss_spread": statistics.pstdev(losses) / statistics.fmean(losses),
        }

    def smaller(self) -> TrainingSteadiness:
        """The log is there anyway."""
        return self
