"""The ledger's table: all claims, one module or folder a paper."""

from __future__ import annotations

from collections.abc import Sequence

from suffuse.base.errors import unknown_name
from suffuse.claims import cascades, consistency, etsdm, plans, solvers
from suffuse.claims.protocol import Claim, Experiment

__all__ = ["CLAIMS", "experiments_of", "find_claims"]

CLAIMS: tuple[Claim, ...] = (*etsdm.CLAIMS, *consistency.CLAIMS, *solvers.CLAIMS, *plans.CLAIMS, *cascades.CLAIMS)


def find_claims(name: str) -> tuple[Claim, ...]:
    """Claims by their key or its first words (`ict` is all of iCT's), by their technique's key, or all.

    Raises:
        UsageError: No such claim or technique; the nearest is offered.
    """
    found = tuple(
        claim for claim in CLAIMS if name in ("all", claim.key, claim.technique) or claim.key.startswith(f"{name}-")
    )
    if not found:
        names = {"all", *(claim.technique for claim in CLAIMS), *(claim.key for claim in CLAIMS)}
        raise unknown_name("claim", name, names)
    return found


def experiments_of(claims: Sequence[Claim], tier: str) -> list[Experiment]:
    """The experiments that some claims have in a tier."""
    return [found for claim in claims for name, found in claim.experiments.items() if name == tier]
