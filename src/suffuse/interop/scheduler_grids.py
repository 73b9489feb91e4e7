"""Grids of diffusers' schedulers as ours, read off their configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from suffuse.base.errors import UsageError
from suffuse.sampling import BetaLaw, GridPart, Karras, LogSNR, Shifted, Uniform

__all__ = ["grid_of"]

# Schedulers that lay their times for one step more, and leave the last one out.
_SPARE = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "SASolver")
_SIGMAS: dict[str, Callable[..., GridPart]] = {
    "use_karras_sigmas": Karras,
    "use_exponential_sigmas": LogSNR,
    "use_lu_lambdas": LogSNR,
    "use_beta_sigmas": BetaLaw,
}
_SPACINGS = ("leading", "trailing", "linspace")


def grid_of(scheduler: Any, steps: int) -> GridPart:  # Any: a scheduler of an optional package, or its configuration
    """The grid on which a scheduler of diffusers would go.

    Indices of tables are the scheduler's own. Where it goes by noise levels (Karras, exponential, beta) its levels are
    ours, but most of its classes round the times that they tell the network; ours do not.

    Args:
        scheduler: Of the DDPM family or of flow matching, or its configuration.
        steps: How many.

    Raises:
        UsageError: A spacing that we do not have.
    """
    config: Mapping[str, Any] = getattr(scheduler, "config", scheduler)
    name = str(config.get("_class_name", type(scheduler).__name__))
    chosen = next((grid for key, grid in _SIGMAS.items() if config.get(key)), None)
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
        shift = float(config.get("shift") or config.get("flow_shift") or 1.0)
        even = Uniform(steps=steps) if shift == 1.0 else Shifted(steps=steps, shift=shift)
        return even if chosen is None else chosen(steps=steps)
    if chosen is not None:
        return chosen(steps=steps)
    spacing = str(config.get("timestep_spacing", "leading"))
    if spacing not in _SPACINGS:
        raise UsageError(f"scheduler {name!r} spaces its times by {spacing!r}; we have {', '.join(_SPACINGS)}")
    spare = name.startswith(_SPARE) and spacing != "trailing"
    offset = int(config.get("steps_offset") or 0) if spacing == "leading" else 0
    return Uniform(steps=steps, spacing=spacing, offset=offset, spare=spare)
