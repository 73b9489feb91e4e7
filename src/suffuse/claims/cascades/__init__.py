"""Claims of latent spaces and cascades: latent diffusion, DiffuseVAE, Wuerstchen, inverse design."""

from __future__ import annotations

from suffuse.claims.cascades import diffusevae, inverse_design, latent_diffusion, wuerstchen
from suffuse.claims.protocol import Claim

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    *latent_diffusion.CLAIMS,
    *diffusevae.CLAIMS,
    *wuerstchen.CLAIMS,
    *inverse_design.CLAIMS,
)
