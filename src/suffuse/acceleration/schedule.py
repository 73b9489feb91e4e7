"""Schedules: at which steps a plan refreshes what it keeps.

Source: ma2024deepcache, Section 3.4; the rules are functions of the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from suffuse.base.errors import UsageError

__all__ = ["power_steps", "published_power_steps", "uniform_steps"]


def uniform_steps(steps: int, every: int) -> tuple[int, ...]:
    """0, every, 2 every, ..."""
    return tuple(range(0, steps, every))


def power_steps(steps: int, every: int, centre: float, power: float) -> tuple[int, ...]:
    """ceil(steps / every) steps, densest around a centre: differences from it are even in their 1 / power-th powers.

    Args:
        steps: Number of steps.
        every: How many steps there are to a refresh on average.
        centre: Where they are densest.
        power: How much denser; 1 is even.

    Raises:
        UsageError: The power is so large that no such number of different steps results, even when it is lowered.
    """
    return _spread(
        steps, every, centre, power, lambda value, exponent: math.copysign(abs(value) ** exponent, value.real)
    )


def published_power_steps(steps: int, every: int, centre: float, power: float) -> tuple[int, ...]:
    """As the paper's code computes it: it takes roots of negative differences, which are complex, and their real part.

    So the steps differ from those of `power_steps`, and its figures belong to these.
    """
    return _spread(steps, every, centre, power, lambda value, exponent: complex(value) ** exponent)


def _spread(
    steps: int, every: int, centre: float, power: float, raised: Callable[[complex, float], complex]
) -> tuple[int, ...]:
    count = math.ceil(steps / every)
    if count <= 1:
        return (0,)
    if count == steps:
        return tuple(range(steps))
    while power > 1:
        low, high = raised(-centre, 1 / power), raised(steps - centre, 1 / power)
        inner = {
            int(complex(raised(low + (high - low) * k / count, power)).real) + round(centre) for k in range(1, count)
        }
        found = sorted({0} | {step for step in inner if 0 <= step < steps})
        if len(found) == count:
            return tuple(found)
        power -= 0.02  # too dense around the centre for so many different steps
    raise UsageError(
        f"no {count} different steps of {steps} lie densest around {centre:g}; choose another centre, a larger "
        "`every`, or the uniform schedule"
    )
