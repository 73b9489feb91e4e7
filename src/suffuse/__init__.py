"""suffuse: small, composable, tested parts for diffusion, flow and consistency models."""

__version__ = "0.1.0"
