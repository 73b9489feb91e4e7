"""Sample matching (MMD-DDM): fine-tune a denoiser through its own few-step sampler until samples match data."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from suffuse.base.batch import Batch
from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.part import Joint, Part
from suffuse.base.randomness import Draws
from suffuse.metrics.kernel import Kernel, cubic, gaussian, unbiased_mmd2
from suffuse.models.denoiser import Denoiser
from suffuse.networks.part import seeded
from suffuse.objectives.base import Objective, ObjectivePart, Progress
from suffuse.objectives.batches import training_conditions
from suffuse.process import PathPart
from suffuse.sampling import DDIM, Estimate, Grid, Solver, Uniform

__all__ = [
    "CubicKernel",
    "FeaturesPart",
    "GaussianKernels",
    "KernelPart",
    "LinearKernel",
    "RandomConvolutions",
    "SameFeatures",
    "SampleMatching",
    "differentiable_sample",
]


class KernelPart(Part, abc.ABC):
    """A kernel between features; it is computed in float64."""

    kind: str

    @abc.abstractmethod
    def kernel(self) -> Kernel:
        """(n, D), (m, D) -> (n, m)."""


class LinearKernel(KernelPart):
    """x . y / D: the difference of the means alone."""

    kind: Literal["linear"] = "linear"

    def kernel(self) -> Kernel:
        """Bilinear."""
        return lambda x, y: x @ y.T / x.shape[1]


class CubicKernel(KernelPart):
    """(x . y / D + 1)**3, KID's. Source: binkowski2018kid."""

    kind: Literal["cubic"] = "cubic"

    def kernel(self) -> Kernel:
        """That of the metrics."""
        return cubic


class GaussianKernels(KernelPart):
    """Mean of exp(-|x - y|**2 / (2 scale**2)) over some scales, in units of the features."""

    kind: Literal["gaussian"] = "gaussian"
    scales: tuple[float, ...] = Field(default=(0.05, 0.15, 0.5), min_length=1)

    def kernel(self) -> Kernel:
        """A mixture sees coarse and fine differences."""
        kernels = [gaussian(scale) for scale in self.scales]
        return lambda x, y: torch.stack([kernel(x, y) for kernel in kernels]).mean(0)


class FeaturesPart(Part, abc.ABC):
    """A feature space in which samples and data are compared."""

    kind: str

    @abc.abstractmethod
    def build(self, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """(B, ...) -> (B, D), differentiable; samples may leave [-1, 1] and are not cut."""


class SameFeatures(FeaturesPart):
    """The samples' own numbers."""

    kind: Literal["same"] = "same"

    def build(self, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """Flat."""
        return lambda x: x.flatten(1)


class RandomConvolutions(FeaturesPart):
    """Means over the image of a convolutional network with fixed random weights, layer by layer.

    Attributes:
        channels: Of the layers, each halving the sides while they can be.
        seed: Of the weights.
    """

    kind: Literal["random_convolutions"] = "random_convolutions"
    channels: tuple[int, ...] = Field(default=(32, 64, 64), min_length=1)
    seed: int = 0

    def build(self, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """Images alone.

        Raises:
            UsageError: The samples are no images.
        """
        if len(shape) != 3:
            raise UsageError(f"features 'random_convolutions' need images, not samples of shape {shape}; use same")
        with seeded(self.seed):
            widths = (shape[0], *self.channels)
            layers = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1) for i in range(len(self.channels)))
        layers.requires_grad_(requires_grad=False)

        def features(x: Tensor) -> Tensor:
            found = [x.flatten(1)]
            for layer in layers:
                x = torch.relu(layer.to(x.device)(x))
                found.append(x.mean((2, 3)))
                if min(x.shape[2:]) > 2:
                    x = nn.functional.avg_pool2d(x, 2)
            return torch.cat(found[1:], dim=1)

        return features


KernelChoice = Annotated[KernelPart, Joint("kernel", LinearKernel, CubicKernel, GaussianKernels)]
FeaturesChoice = Annotated[FeaturesPart, Joint("features", SameFeatures, RandomConvolutions)]


def differentiable_sample(
    model: Denoiser, x: Tensor, solver: Solver, times: tuple[float, ...], cond: Conditions, noise: Draws
) -> Tensor:
    """Samples of a few-step solver with gradients to the weights, one step's activations in memory at a time.

    Args:
        model: What is asked.
        x: Noise at times[0], (B, ...).
        solver: How to go back.
        times: Falling, the last one included.
        cond: Conditions of the samples.
        noise: Randomness of stochastic solvers.
    """
    state = solver.init(x, times, model.path)
    steps = len(times) - 1
    for i in range(steps):

        def estimate(x: Tensor, t: float, substep: int = 0, target: float | None = None, step: int = i) -> Estimate:
            call = Call(step=step, steps=steps, substep=substep, target=target)
            if not torch.is_grad_enabled():
                return Estimate(model.denoise(x, t, cond, call))
            found: Tensor = checkpoint(
                lambda x: model.denoise(x, t, cond, call), x, use_reentrant=False, preserve_rng_state=False
            )
            return Estimate(found)

        x, state = solver.step(estimate, x, state, i, noise.at(noise.step * steps + i))
    return x


class SampleMatching(ObjectivePart):
    """Unbiased squared maximum mean discrepancy between samples of a few-step solver and data, in a feature space.

    The whole network is trained, no denoising loss is kept, and the result is tied to solver and number of steps. The
    batch decides as a whole: its loss is the same number for every sample, and its size is the statistical bottleneck.

    Source: aiello2023mmd, Eqs. 7 to 10.

    Attributes:
        solver, grid: The sampler, which must be that of later use.
        kernel: Between features.
        features: In which samples and data are compared.
        condition_dropout: Probability that a sample's conditions are hidden.
    """

    kind: Literal["sample_matching"] = "sample_matching"
    couples: ClassVar[bool] = False
    solver: Solver = DDIM()
    grid: Grid = Uniform(steps=5)
    kernel: KernelChoice = CubicKernel()
    features: FeaturesChoice = SameFeatures()
    condition_dropout: float = Field(default=0.0, ge=0, le=1)

    def check(self, path: PathPart, steps: int) -> None:
        """Solver and grid must go with the path."""
        self.solver.init(torch.zeros(1), self.grid.times(path), path)

    def build(self, model: Denoiser) -> Objective:
        """A function: features are fixed.

        Raises:
            UsageError: The solver needs a mean and the model is a map, or the features do not fit the samples.
        """
        self.check(model.path, 1)
        if model.config is None:
            raise UsageError("objective 'sample_matching' samples in the shape of the model's configuration")
        if self.solver.needs_mean and model.estimate != "mean":
            raise UsageError(
                f"solver {self.solver.kind!r} needs a denoiser, but this model is a flow map; use consistency"
            )
        features, kernel = self.features.build(model.config.shape), self.kernel.kernel()
        times = self.grid.times(model.path)

        def losses(
            model: Denoiser, batch: Batch, progress: Progress, noise: Draws, player: str = "model"
        ) -> dict[str, Tensor]:
            if batch.x0 is None or len(batch.x0) < 2:
                raise UsageError("objective 'sample_matching' compares a batch of data with one of samples; it needs 2")
            start = noise.normal("start", tuple(batch.x0.shape[1:])) * float(model.path.level(times[0]).sigma)
            cond = training_conditions(model, batch, noise, self.condition_dropout)
            made = differentiable_sample(model, start, self.solver, times, cond, noise)
            mine, real = features(made.float()).double(), features(batch.x0.float()).double()
            value = unbiased_mmd2(mine, real, kernel)
            return {"mmd2": value.float().expand(len(batch.x0))}

        return losses
