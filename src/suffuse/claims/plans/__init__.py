"""Claims of plans: DeepCache, Faster Diffusion, region-adaptive sampling, and the caches that came after."""

from __future__ import annotations

from suffuse.claims.plans import caches, deepcache, faster_diffusion, ras
from suffuse.claims.protocol import Claim

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (*deepcache.CLAIMS, *faster_diffusion.CLAIMS, *ras.CLAIMS, *caches.CLAIMS)
