"""Caches that came after: what blocks add, kept, forecast or reused below a threshold; and like tokens, merged."""

from suffuse.acceleration.caches.residual import ResidualReuse, Taylor
from suffuse.acceleration.caches.threshold import FirstBlockCache, TeaCache
from suffuse.acceleration.caches.token_merging import TokenMerging

__all__ = ["FirstBlockCache", "ResidualReuse", "Taylor", "TeaCache", "TokenMerging"]
