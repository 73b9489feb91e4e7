"""The one sampling loop: images with keys of their own, so that image k of a seed is the same in any batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.denoiser import Denoiser
from suffuse.networks.precision import Precision, autocast
from suffuse.process import PathPart
from suffuse.sampling.grid import GridPart, Uniform
from suffuse.sampling.guidance.base import Denoise, GuidancePart, NoGuidance
from suffuse.sampling.solvers.base import Estimate, Estimator, SolverPart
from suffuse.sampling.solvers.dpm_solver import DPMSolverPP

__all__ = ["Model", "Samples", "sample", "sample_batches"]


@runtime_checkable
class Model(Protocol):
    """What can be sampled: a Denoiser, an exact density, a mixture of experts."""

    path: PathPart

    @property
    def estimate(self) -> Literal["mean", "endpoint"]:
        """Whether `denoise` gives the posterior mean or a consistency model's endpoint."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the samples are made."""
        ...

    def denoise(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        """Estimate of x0."""
        ...


@dataclass(frozen=True)
class Samples:
    """What sampling gives.

    Attributes:
        x: Samples, (n, ...), on the model's device.
        nfe: Network evaluations per sample, guidance's halves and other networks included: counted, not assumed.
        backward: Passes backward through networks per sample, of guidances that take gradients.
        seconds: Wall time until the device was done.
    """

    x: Tensor
    nfe: float
    seconds: float
    backward: float = 0.0


def _clock(device: torch.device) -> float:
    """Wall time once the device has done what it was given: CUDA works on after the call has returned."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _Counter:
    """Counts the rows that a network evaluates."""

    def __init__(self, model: Model) -> None:
        self.model, self.rows = model, 0

    def __call__(self, x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
        self.rows += len(x)
        return Estimate(self.model.denoise(x, t, cond, call))


class _Guided:
    """What solvers ask for estimates: it knows the step, and keeps what estimates say beside the data."""

    def __init__(self, guided: Denoise, cond: Conditions | None, times: tuple[float, ...]) -> None:
        self.guided, self.cond = guided, cond
        self.call = Call(step=0, steps=len(times) - 1, times=times, memory={})
        self.shift: Tensor | None = None
        self.evaluations = self.backward = 0.0

    def at(self, step: int) -> Estimator:
        """For a step."""
        self.call, self.shift = self.call.replace(step=step), None
        return self

    def __call__(self, x: Tensor, t: float, substep: int = 0, target: float | None = None) -> Estimate:
        estimate = self.guided(x, t, self.cond, self.call.replace(substep=substep, target=target))
        self.evaluations += estimate.evaluations
        self.backward += estimate.backward
        self.shift = self.shift if estimate.shift is None else estimate.shift
        return estimate

    def corrected(self, x: Tensor) -> Tensor:
        """Samples after the step, with what the guidance adds to them."""
        return x if self.shift is None else x + self.shift


def _shape_of(model: Model) -> tuple[int, ...]:
    """Shape of a sample by the model's configuration."""
    if not isinstance(model, Denoiser) or model.config is None:
        raise UsageError("this model has no configuration that tells the shape of its samples; give `shape`")
    return model.config.shape


def _check(
    model: Model, n: int, batch: int, solver: SolverPart, guidance: GuidancePart, cond: Conditions | None
) -> None:
    if n < 1 or batch < 1:
        raise UsageError(f"n is {n} and batch {batch}; both must be at least 1")
    if solver.needs_mean and model.estimate != "mean":
        raise UsageError(
            f"solver {solver.kind!r} needs the posterior mean, but this model estimates the endpoint (a consistency "
            "model); use a consistency solver"
        )
    guidance.check(solver)
    cond = cond or Conditions()
    for name, value in cond.values.items():
        if len(value) != n:
            raise UsageError(f"condition {name!r} has {len(value)} values for {n} samples; give one for each sample")
    if isinstance(model, Denoiser):
        model.conditioner.check(cond)


def sample_batches(
    model: Model,
    n: int,
    *,
    shape: tuple[int, ...] | None = None,
    solver: SolverPart | None = None,
    grid: GridPart | None = None,
    guidance: GuidancePart | None = None,
    cond: Conditions | None = None,
    seed: int = 0,
    batch: int = 64,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
    precision: Precision = "float32",
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[Samples]:
    """Sample in batches; memory does not grow with n.

    Args:
        model: What to sample.
        n: Number of samples.
        shape: Shape of one sample, (C, H, W) or (D,); the one in the model's configuration when None.
        solver: How to go back; DPM-Solver++ when None.
        grid: Where to stop on the way; 20 even steps when None.
        guidance: How to steer; None for none.
        cond: Conditions of all n samples; None for none.
        seed: With the sample's number it determines the noise, whatever the batch size or device.
        batch: Samples at a time.
        first: Number of the first sample.
        dtype: Of the sampler's state.
        precision: Of the network.
        on_step: Called after each step with (samples finished before this batch, steps done in it).

    Raises:
        UsageError: A count that is not positive, no shape, conditions that the model does not know, or parts that do
            not go together; raised at the first batch.
    """
    solver, grid, guidance = solver or DPMSolverPP(), grid or Uniform(), guidance or NoGuidance()
    _check(model, n, batch, solver, guidance, cond)
    shape = _shape_of(model) if shape is None else shape
    times = grid.times(model.path)
    steps = len(times) - 1
    for start in range(0, n, batch):
        began = _clock(model.device)
        index = torch.arange(first + start, first + min(start + batch, n))
        part = cond[start : start + len(index)].to(model.device) if cond else None
        counter = _Counter(model)
        guided = _Guided(guidance.bind(counter, model.path), part, times)
        draws = Draws(seed, index)
        with _Evaluating(model), torch.no_grad(), autocast(model.device, precision):
            # Noise is drawn on the CPU: the same image on any device.
            x = draws.normal("start", shape).to(model.device, dtype)
            x = x * float(model.path.level(times[0]).sigma)
            state = solver.init(x, times, model.path)
            for i in range(steps):
                x, state = solver.step(guided.at(i), x, state, i, draws.at(i))
                x = guided.corrected(x)
                if on_step is not None:
                    on_step(start, i + 1)
        nfe = counter.rows / len(index) + guided.evaluations
        yield Samples(x, nfe, _clock(x.device) - began, guided.backward)


class _Evaluating:
    """Evaluation mode while sampling; the mode of every module comes back."""

    def __init__(self, model: Model) -> None:
        self.modules = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []

    def __enter__(self) -> None:
        for module in self.modules:
            module.training = False

    def __exit__(self, *_: object) -> None:
        for module in self.modules:
            module.training = True


def sample(
    model: Model,
    n: int,
    *,
    shape: tuple[int, ...] | None = None,
    solver: SolverPart | None = None,
    grid: GridPart | None = None,
    guidance: GuidancePart | None = None,
    cond: Conditions | None = None,
    seed: int = 0,
    batch: int = 64,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
    precision: Precision = "float32",
    on_step: Callable[[int, int], None] | None = None,
) -> Samples:
    """Sample n samples and stack them; arguments as for `sample_batches`."""
    parts = list(
        sample_batches(
            model,
            n,
            shape=shape,
            solver=solver,
            grid=grid,
            guidance=guidance,
            cond=cond,
            seed=seed,
            batch=batch,
            first=first,
            dtype=dtype,
            precision=precision,
            on_step=on_step,
        )
    )

    def mean(counts: Iterable[float]) -> float:
        return sum(count * len(part.x) for count, part in zip(counts, parts, strict=True)) / n

    return Samples(
        torch.cat([part.x for part in parts]),
        nfe=mean(part.nfe for part in parts),
        seconds=sum(part.seconds for part in parts),
        backward=mean(part.backward for part in parts),
    )
