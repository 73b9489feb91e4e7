"""Euler ancestral: DDIM's stochastic step under the name that k-diffusion's users know."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from suffuse.sampling.solvers.ddim import DDIM

__all__ = ["EulerAncestral"]


class EulerAncestral(DDIM):
    """Euler in sigma / alpha down to a lower level than the next, and noise back up to it: DDIM with eta, exactly.

    Attributes:
        eta: Share of the noise that is fresh; 1 is DDPM's step.
    """

    kind: Literal["euler_ancestral"] = "euler_ancestral"  # type: ignore[assignment]  # a name of its own
    eta: float = Field(default=1.0, ge=0, le=1)
