"""The time-Lipschitz constant: how fast a function of (x, t) changes in t at samples that stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["time_lipschitz"]


def time_lipschitz(
    output: Callable[[Tensor, float], Tensor],
    noisy: Callable[[float], Tensor],
    times: Sequence[float],
    step: float,
    *,
    span: float = 1.0,
) -> Tensor:
    """K(t) = E |F(x_t, t) - F(x_t, t + step)| / step, with the *same* x_t in both terms.

    Args:
        output: F(x, t) for samples (B, ...) and one time.
        noisy: Samples x_t of the process at a time, (B, ...).
        times: Times t.
        step: The step in time, above 0.
        span: Length of the path in its unit; K is multiplied by it, so that it is per whole path on every path.

    Returns:
        One number a time, (len(times),) float64; the norm is that of the whole sample.

    Source: yang2024etsdm, Section 3.2.
    """
    found = []
    for t in times:
        x = noisy(t)
        change = (output(x, t) - output(x, t + step)).double().flatten(1)
        found.append(torch.linalg.vector_norm(change, dim=1).mean())
    return torch.stack(found) / step * span
