"""Variance-preserving paths, alpha**2 + sigma**2 = 1: closed forms, and tables continued between their indices.

Everything follows from log alpha(t) and its inverse: sigma = sqrt(-expm1(2 log alpha)), which keeps its digits near
clean data where 1 - alpha**2 would lose them.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from suffuse.process.path import PathPart, check_below

__all__ = ["VP"]

Schedule = Literal["linear", "scaled_linear", "cosine", "plain_cosine", "betas"]

# (beta_min, beta_max): of the continuous linear schedule (song2021sde), and per step of the tables (ho2020ddpm,
# rombach2022ldm).
_CONTINUOUS_BETAS = {"linear": (0.1, 20.0)}
_TABLE_BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}
# nichol2021iddpm, Eq. 17: keeps beta from vanishing near clean data.
_COSINE_OFFSET = 0.008
_T_START = 1e-5


class _Curve(Protocol):
    """log alpha as a function of time, and the derivative of alpha, which stays finite where alpha is 0."""

    def log_alpha(self, t: Tensor) -> Tensor: ...

    def d_alpha(self, t: Tensor) -> Tensor: ...

    def t_of_log_alpha(self, log_alpha: Tensor) -> Tensor: ...


class _Linear:
    """beta(t) = beta_min + (beta_max - beta_min) t: log alpha = -(beta_min t + (beta_max - beta_min) t**2 / 2) / 2."""

    def __init__(self, beta_min: float, beta_max: float) -> None:
        self.beta_min, self.slope = beta_min, beta_max - beta_min

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_min * t + 0.5 * self.slope * t**2)

    def d_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_min + self.slope * t) * self.log_alpha(t).exp()

    def t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        integral = -2 * log_alpha
        # The root in the form without cancellation for small integrals.
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * self.slope * integral).sqrt())


class _Cosine:
    """alpha = cos(theta(t)) / cos(theta(0)), theta = pi/2 (t + offset) / (1 + offset); offset 0 is the plain cosine."""

    def __init__(self, offset: float) -> None:
        self.offset = offset
        self.rate = math.pi / 2 / (1 + offset)
        self.start = self.rate * offset

    def log_alpha(self, t: Tensor) -> Tensor:
        # 1 - alpha as a product of sines is exact where alpha is nearly one, sin(pi/2 - theta) where it is nearly zero.
        change = -2 * (self.rate * t / 2).sin() * (self.rate * t / 2 + self.start).sin() / math.cos(self.start)
        rest = (self.rate * (1 - t)).sin() / math.cos(self.start)
        return torch.where(t < 0.5, torch.log1p(change), rest.log())

    def d_alpha(self, t: Tensor) -> Tensor:
        return -self.rate * (self.rate * t + self.start).sin() / math.cos(self.start)

    def t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        # cos(theta) = alpha cos(theta_0); the angle comes from sine and cosine, since acos loses digits near 1.
        cosine = log_alpha.exp() * math.cos(self.start)
        one_minus_square = math.sin(self.start) ** 2 - math.cos(self.start) ** 2 * torch.expm1(2 * log_alpha)
        return torch.atan2(one_minus_square.clamp_min(0).sqrt(), cosine) / self.rate - self.offset


class _Table:
    """A table of log alpha at t = 0..T-1, with log alpha = 0 at t = -1, linear in between.

    Where the last entry has alpha = 0 (zero terminal SNR) the last interval is linear in alpha instead.
    """

    def __init__(self, log_alpha: Tensor) -> None:
        self.nodes = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha])
        self.ends_in_noise = bool(torch.isinf(log_alpha[-1]))
        self._finite = self.nodes[:-1] if self.ends_in_noise else self.nodes
        self._on = functools.lru_cache(maxsize=8)(lambda device: self._finite.to(device))

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        nodes = self._on(t.device)
        left = (t + 1).floor().long().clamp(0, len(nodes) - 2)
        return nodes[left], nodes[left + 1] - nodes[left], t + 1 - left

    def _remaining(self, t: Tensor) -> Tensor:
        """Share of the last interval that is left, 1 at its start and 0 at the noise end."""
        return len(self.nodes) - 2 - t

    def log_alpha(self, t: Tensor) -> Tensor:
        start, slope, offset = self._locate(t)
        value = start + slope * offset
        if self.ends_in_noise:
            left = self._remaining(t)
            value = torch.where(left < 1, self._on(t.device)[-1] + left.log(), value)
        return value

    def d_alpha(self, t: Tensor) -> Tensor:
        start, slope, offset = self._locate(t)
        value = (start + slope * offset).exp() * slope
        if self.ends_in_noise:
            value = torch.where(self._remaining(t) < 1, -self._on(t.device)[-1].exp(), value)
        return value

    def t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        nodes = self._on(log_alpha.device)
        right = torch.searchsorted(-nodes, -log_alpha.contiguous()).clamp(1, len(nodes) - 1)
        start, slope = nodes[right - 1], nodes[right] - nodes[right - 1]
        t = right - 2 + (log_alpha - start) / slope
        if self.ends_in_noise:
            t = torch.where(log_alpha < nodes[-1], len(self.nodes) - 2 - (log_alpha - nodes[-1]).exp(), t)
        return t


class _ZeroTerminal:
    """A continuous curve rescaled so that alpha(t_end) = 0: alpha <- (alpha - alpha_end) / (1 - alpha_end).

    Source: lin2024flawed, Algorithm 1, applied to a curve that starts at alpha = 1.
    """

    def __init__(self, curve: _Curve, t_end: float) -> None:
        self.curve, self.t_end = curve, t_end
        self.range = -torch.expm1(curve.log_alpha(torch.tensor(t_end, dtype=torch.float64))).item()

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log1p(torch.expm1(self.curve.log_alpha(t)) / self.range)

    def d_alpha(self, t: Tensor) -> Tensor:
        return self.curve.d_alpha(t) / self.range

    def t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        t = self.curve.t_of_log_alpha(torch.log1p(torch.expm1(log_alpha) * self.range))
        return t.clamp_max(self.t_end)  # rounding must not step over the end, where alpha would be negative


class _Straightened:
    """A curve whose sigma is a straight line from clean data to `below`: sigma' stays finite there.

    Source: yang2024etsdm, where changed noise schedules are an alternative to sharing; the line is our form of it.
    """

    def __init__(self, curve: _Curve, below: float, t_clean: float) -> None:
        self.curve, self.below, self.t_clean = curve, below, t_clean
        self.log_alpha_below = curve.log_alpha(torch.tensor(below, dtype=torch.float64)).item()
        self.rate = math.sqrt(-math.expm1(2 * self.log_alpha_below)) / (below - t_clean)

    def _line(self, t: Tensor) -> Tensor:
        return self.rate * (t - self.t_clean)

    def log_alpha(self, t: Tensor) -> Tensor:
        straight = 0.5 * torch.log1p(-(self._line(t) ** 2).clamp_max(1 - 1e-12))
        return torch.where(t < self.below, straight, self.curve.log_alpha(t))

    def d_alpha(self, t: Tensor) -> Tensor:
        straight = -self._line(t) * self.rate * (-self.log_alpha(t)).exp()
        return torch.where(t < self.below, straight, self.curve.d_alpha(t))

    def t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        straight = self.t_clean + _variance(log_alpha).sqrt() / self.rate
        return torch.where(log_alpha > self.log_alpha_below, straight, self.curve.t_of_log_alpha(log_alpha))


def _betas(schedule: Schedule, steps: int, beta_min: float, beta_max: float) -> Tensor:
    if schedule == "linear":
        return torch.linspace(beta_min, beta_max, steps, dtype=torch.float64)
    if schedule == "scaled_linear":
        return torch.linspace(beta_min**0.5, beta_max**0.5, steps, dtype=torch.float64) ** 2
    curve = _Cosine(_COSINE_OFFSET if schedule == "cosine" else 0.0)
    log_alpha = curve.log_alpha(torch.arange(steps + 1, dtype=torch.float64) / steps)
    return (-torch.expm1(2 * log_alpha.diff())).clamp(max=0.999)


@functools.lru_cache(maxsize=64)
def _curve(
    schedule: Schedule,
    steps: int | None,
    betas: tuple[float, ...] | None,
    limits: tuple[float, float],
    t_end: float,
    zero_terminal_snr: bool,
    straight_below: float | None,
) -> _Curve:
    """The live curve of plain configuration; built once."""
    if straight_below is not None:
        curve = _curve(schedule, steps, betas, limits, t_end, zero_terminal_snr, None)
        return _Straightened(curve, straight_below, 0.0 if steps is None and betas is None else -1.0)
    if steps is None and betas is None:
        curve = _Linear(*limits) if schedule == "linear" else _Cosine(_COSINE_OFFSET if schedule == "cosine" else 0.0)
        return _ZeroTerminal(curve, t_end) if zero_terminal_snr else curve
    beta = torch.tensor(betas, dtype=torch.float64) if betas is not None else _betas(schedule, steps or 0, *limits)
    log_alpha = 0.5 * torch.log1p(-beta).cumsum(0)
    if zero_terminal_snr:
        # lin2024flawed, Algorithm 1: shift to alpha = 0 at the last index, scale so that the first one is kept.
        alpha = log_alpha.exp()
        rescaled = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        log_alpha = rescaled.log()
    return _Table(log_alpha)


def _variance(log_alpha: Tensor) -> Tensor:
    """sigma**2 = 1 - alpha**2; `abs`, not a minus, so that clean data get +0."""
    return torch.expm1(2 * log_alpha).abs()


class VP(PathPart):
    """Variance-preserving path: a closed form on t in [0, 1], or a table of `steps` indices 0..steps-1.

    Attributes:
        schedule: linear, cosine, plain_cosine (closed forms or tables), scaled_linear (table), betas (your own table).
        steps: Number of indices of the table; None for the closed form.
        betas: The table itself, for schedule "betas"; each in (0, 1).
        beta_min: First beta; None for the schedule's own (continuous linear 0.1, table 1e-4, scaled-linear 0.00085).
        beta_max: Last beta; None for the schedule's own (continuous linear 20, table 0.02, scaled-linear 0.012).
        t_start: Least trained time of a closed form.
        t_end: Largest time of a closed form.
        zero_terminal_snr: Rescale so that alpha is exactly 0 at the largest time (lin2024flawed).
        straight_below: Under this time sigma rises in a straight line from clean data, so that its derivative stays
            finite there; None leaves the schedule as it is.

    A table is continued between its indices linearly in log alpha and is exact at them; index 0 still has noise, so
    clean data are at t = -1.
    """

    kind: Literal["vp"] = "vp"
    schedule: Schedule = "linear"
    steps: int | None = Field(default=None, ge=2)
    betas: tuple[float, ...] | None = None
    beta_min: float | None = Field(default=None, gt=0)
    beta_max: float | None = Field(default=None, gt=0)
    t_start: float = Field(default=_T_START, ge=0, lt=1)
    t_end: float = Field(default=1.0, gt=0, le=1)
    zero_terminal_snr: bool = False
    straight_below: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> VP:
        if (self.schedule == "betas") != (self.betas is not None):
            raise ValueError("schedule 'betas' and the field `betas` belong together; give both or neither")
        if self.betas is not None:
            if self.steps is not None:
                raise ValueError("`steps` is the length of `betas`; leave it out")
            bad = [beta for beta in self.betas if not 0 < beta < 1]
            if len(self.betas) < 2 or bad:
                raise ValueError(f"`betas` needs two or more values inside (0, 1); wrong: {bad[:3] or self.betas}")
        if self.schedule == "scaled_linear" and self.steps is None:
            raise ValueError("scaled_linear is a table; set `steps` (Stable Diffusion uses 1000)")
        has_limits = self.schedule in {"linear", "scaled_linear"}
        if not has_limits and (self.beta_min is not None or self.beta_max is not None):
            raise ValueError(f"schedule {self.schedule!r} has no beta_min and beta_max; leave them out")
        low, high = self.limits
        if has_limits:
            check_below(beta_min=low, beta_max=high)
        if has_limits and self.steps is not None and high >= 1:
            raise ValueError(f"beta_max {high} of a table must be below 1 (it is a variance per step)")
        check_below(t_start=self.t_start, t_end=self.t_end)
        if self.indices is not None and (self.t_start, self.t_end) != (_T_START, 1.0):
            raise ValueError("a table runs over its indices; leave t_start and t_end out")
        if self.straight_below is not None:
            check_below(straight_below=self.straight_below, t_max=self.t_max)
        return self

    @property
    def limits(self) -> tuple[float, float]:
        """(beta_min, beta_max), the schedule's own where they were left out; (0, 0) for schedules without."""
        own = (_CONTINUOUS_BETAS if self.steps is None else _TABLE_BETAS).get(self.schedule, (0.0, 0.0))
        return (
            own[0] if self.beta_min is None else self.beta_min,
            own[1] if self.beta_max is None else self.beta_max,
        )

    @property
    def _live(self) -> _Curve:
        shape = (self.t_end, self.zero_terminal_snr, self.straight_below)
        return _curve(self.schedule, self.steps, self.betas, self.limits, *shape)

    @property
    def indices(self) -> int | None:
        """Length of the table; None for a closed form."""
        return self.steps if self.betas is None else len(self.betas)

    @property
    def t_clean(self) -> float:
        """-1 for a table, whose index 0 still has noise; 0 for a closed form."""
        return 0.0 if self.indices is None else -1.0

    @property
    def t_min(self) -> float:
        """Index 0, or `t_start`."""
        return self.t_start if self.indices is None else 0.0

    @property
    def t_max(self) -> float:
        """Last index, or `t_end`."""
        return self.t_end if self.indices is None else float(self.indices - 1)

    @property
    def told_scale(self) -> float | None:
        """Indices are told as they are, whatever the table's length; [0, 1] becomes [0, 1000]."""
        return 1000.0 if self.indices is None else 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """exp(log alpha)."""
        return self._live.log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha**2), without the cancellation."""
        return _variance(self._live.log_alpha(t)).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        """The curve's own."""
        return self._live.d_alpha(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        """-alpha alpha' / sigma; at t_clean infinite, or 0 / 0 for plain_cosine, where only its limit exists."""
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)

    def half_log_snr(self, t: Tensor) -> Tensor:
        """log alpha - log sigma, from log alpha directly."""
        log_alpha = self._live.log_alpha(t)
        return log_alpha - 0.5 * _variance(log_alpha).log()

    def d_half_log_snr(self, t: Tensor) -> Tensor:
        """alpha' / (alpha sigma**2)."""
        return self.d_alpha(t) / (self.alpha(t) * self.sigma(t) ** 2)

    def t_of(self, half_log_snr: Tensor) -> Tensor:
        """From alpha**2 = sigmoid(2 lambda)."""
        return self._live.t_of_log_alpha(0.5 * torch.nn.functional.logsigmoid(2 * half_log_snr))
