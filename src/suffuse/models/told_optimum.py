"""The best network that is told only so much about the time, on densities whose posterior is known. No training.

A network that sees x and told(t), but not t, and is trained on the plain loss at uniform indices, does best to answer
with the mean of the exact outputs over the times that told(t) leaves open: F(x) = sum_u p(u | x) F*(x, u), where
p(u | x) is proportional to p_u(x). The path's coefficients c_skip and c_out keep the true time, as in a Denoiser.
"""

from __future__ import annotations

import abc
from typing import ClassVar, Literal

import torch
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.models.exact import ExactModel, times_of
from suffuse.process import PathPart, PredictionPart, SharedTimesteps, TimeConditionPart
from suffuse.process.compose import check_process

__all__ = ["PluggedIn", "ToldOptimum", "exact_output"]

# Told values that are meant to be equal may differ by rounding: logarithms of one number, in a vector and alone.
_SAME = 1e-12


def _coefficients(
    path: PathPart, prediction: PredictionPart, t: float | Tensor, x: Tensor, sigma_data: float
) -> tuple[float | Tensor, float | Tensor]:
    """(c_skip, c_out) at one time for all, or at a time for each sample of x."""
    level = path.level(t, x) if isinstance(t, Tensor) else path.level(t)
    return prediction.output(level.alpha, level.sigma, sigma_data)  # type: ignore[type-var]  # both of one kind


def exact_output(
    model: ExactModel,
    prediction: PredictionPart,
    x: Tensor,
    t: float | Tensor,
    cond: Conditions | None = None,
    *,
    sigma_data: float = 0.5,
) -> Tensor:
    """What the best network that is told everything puts out: F* = (E[x0 | x_t] - c_skip x) / c_out, (B, D) float64.

    Args:
        model: Knows E[x0 | x_t].
        prediction: What the output means.
        x: Noisy samples, (B, D).
        t: Times in the path's unit: (B,), or one float for all samples.
        cond: Conditions of the samples.
        sigma_data: Standard deviation of the data, for predictions that use it.
    """
    wide = x.double()
    c_skip, c_out = _coefficients(model.path, prediction, t, wide, sigma_data)
    return (model.denoise(wide, t, cond) - c_skip * wide) / c_out


class _Told(abc.ABC):
    """A network that is known exactly, with the Denoiser's coefficients at the true time around it."""

    estimate: ClassVar[Literal["mean", "endpoint"]] = "mean"

    def __init__(
        self, model: ExactModel, prediction: PredictionPart, time: TimeConditionPart, sigma_data: float
    ) -> None:
        check_process(model.path, prediction, time)
        self.model, self.path, self.prediction, self.sigma_data = model, model.path, prediction, sigma_data
        ends = torch.tensor([self.path.t_min, self.path.t_max], dtype=torch.float64)
        scales = prediction.c_in(self.path.alpha(ends), self.path.sigma(ends), sigma_data)
        if not torch.allclose(torch.as_tensor(scales, dtype=torch.float64), torch.ones(1, dtype=torch.float64)):
            raise UsageError(
                f"prediction {prediction.kind!r} scales the network's input by the true time, so that the network sees "
                "more, or less, than x and what it is told; use eps, v, x0, flow or score"
            )

    @property
    def device(self) -> torch.device:
        """Where the exact model is."""
        return self.model.device

    @abc.abstractmethod
    def output(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None) -> Tensor:
        """The network's output F at true times t, (B,) or one for all: (B, D) -> (B, D) float64."""

    def denoise(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        """c_skip(t) x + c_out(t) F, (B, D), in the dtype of x; computed in float64."""
        wide = x.double()
        c_skip, c_out = _coefficients(self.path, self.prediction, t, wide, self.sigma_data)
        return (c_skip * wide + c_out * self.output(wide, t, cond)).to(x.dtype)


class ToldOptimum(_Told):
    """The best of all networks that are told `time.told(t)` and no more, as a model that every solver can sample.

    For a time t the network averages over I(t) = {index u: told(u) = told(t)}. A time between indices that no training
    index is told like (solvers in continuous time, where nothing is shared) gets the exact output at that very time.

    Source: yang2024etsdm, Section 4, for the sharing; the average is the minimiser of its loss.

    Args:
        model: The exact model of the data; its path is a table.
        prediction: What the network's output means.
        time: What the network is told.
        sigma_data: Standard deviation of the data, for predictions that use it.

    Raises:
        UsageError: A path without indices, or parts that do not go together.
    """

    def __init__(
        self, model: ExactModel, *, prediction: PredictionPart, time: TimeConditionPart, sigma_data: float = 0.5
    ) -> None:
        super().__init__(model, prediction, time, sigma_data)
        if self.path.indices is None:
            raise UsageError(
                f"path {self.path.kind!r} has no training indices to average over; use a table, such as VP(steps=1000)"
            )
        self.time = time
        told = time.told(torch.arange(self.path.indices, dtype=torch.float64, device=model.device), self.path)
        values, order = told.sort(stable=True)
        self._tolerance = _SAME * float(values.abs().max())
        first = torch.cat([values.new_ones(1, dtype=torch.bool), values.diff() > self._tolerance])
        self._values = values[first]
        counts = first.nonzero().flatten().diff(append=torch.tensor([len(values)], device=first.device))
        self._alike = torch.split(order, counts.tolist())
        self._counts, self._firsts = counts, torch.stack([group[0] for group in self._alike]).double()

    def alike(self, t: float) -> Tensor:
        """Training indices that the network cannot tell from time t, (S,) int64; empty when no index is told like t."""
        group = int(self._groups(torch.tensor([t], dtype=torch.float64, device=self.device))[0])
        found: Tensor = self._alike[group] if group >= 0 else self._alike[0][:0]
        return found

    def _groups(self, t: Tensor) -> Tensor:
        """Which told value each time has, (B,) int64; -1 for one that no index has."""
        told = self.time.told(t, self.path)
        place = torch.searchsorted(self._values, told + self._tolerance, right=True) - 1
        met = (place >= 0) & (told - self._values[place.clamp_min(0)] <= self._tolerance)
        return torch.where(met, place, -1)

    def output(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None) -> Tensor:
        """F = sum over u in I(t) of p(u | x) F*(x, u), (B, D) float64."""
        wide, times = x.double(), times_of(t, x)
        group = self._groups(times)
        shared = (group >= 0) & (self._counts[group.clamp_min(0)] > 1)
        result = torch.empty_like(wide)
        alone = (~shared).nonzero().flatten()
        if len(alone):
            own = torch.where(group[alone] >= 0, self._firsts[group[alone].clamp_min(0)], times[alone])
            part = _rows(cond, alone)
            result[alone] = exact_output(
                self.model, self.prediction, wide[alone], own, part, sigma_data=self.sigma_data
            )
        for number in torch.unique(group[shared]).tolist():
            rows = (group == number).nonzero().flatten()
            result[rows] = self._average(wide[rows], self._alike[number].double(), _rows(cond, rows))
        return result

    def _average(self, x: Tensor, times: Tensor, cond: Conditions | None) -> Tensor:
        """sum_u p(u | x) F*(x, u) over times (S,), (B, D): linear in E[x0 | x, u], so that x is read once for all u."""
        share = self.model.log_probs(x, times, cond).softmax(-1)
        alpha, sigma = self.path.alpha(times), self.path.sigma(times)
        c_skip, c_out = self.prediction.output(alpha, sigma, self.sigma_data)
        factors = share / c_out
        return self.model.combine(x, times, factors, cond) - (factors * c_skip).sum(1, keepdim=True) * x


class PluggedIn(_Told):
    """Sharing switched on at sampling alone: the optimum that was told every time is now told the shared one.

    Source: yang2024etsdm, Section 4 (training and sampling must share alike; this is what happens when they do not).

    Args:
        model: The exact model of the data.
        prediction: What the network's output means.
        time: Which times are shared; how they are told does not matter here.
        sigma_data: Standard deviation of the data, for predictions that use it.

    Raises:
        UsageError: Parts that do not go together.
    """

    def __init__(
        self, model: ExactModel, *, prediction: PredictionPart, time: SharedTimesteps, sigma_data: float = 0.5
    ) -> None:
        super().__init__(model, prediction, time, sigma_data)
        self.time = time

    def output(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None) -> Tensor:
        """F*(x, f(t)) with f(t) the left edge of the interval, (B, D) float64."""
        edges = self.time.shared(times_of(t, x), self.path)
        return exact_output(self.model, self.prediction, x, edges, cond, sigma_data=self.sigma_data)


def _rows(cond: Conditions | None, rows: Tensor) -> Conditions | None:
    """The conditions of some of the samples."""
    return cond[rows] if cond else None
