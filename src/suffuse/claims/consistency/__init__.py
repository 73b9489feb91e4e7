"""Claims of the consistency family, a file a paper: what one or two evaluations can do, and what it takes."""

from __future__ import annotations

from suffuse.claims.consistency import boot, cd, ect, ict, mmd_ddm, rates, slct, tcm
from suffuse.claims.protocol import Claim

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    *ict.CLAIMS,
    *slct.CLAIMS,
    *ect.CLAIMS,
    *tcm.CLAIMS,
    *cd.CLAIMS,
    *boot.CLAIMS,
    *mmd_ddm.CLAIMS,
    *rates.CLAIMS,
)
