"""Claims of the solvers on densities that are known exactly: orders, a coefficient, few steps, diffusers beside."""

from __future__ import annotations

from suffuse.claims.protocol import Claim
from suffuse.claims.solvers import few_steps, matches, orders

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (*orders.CLAIMS, *few_steps.CLAIMS, *matches.CLAIMS)
