"""Networks of other packages under the network contract; each package is imported only where it is used."""

from __future__ import annotations

from suffuse.networks.external.diffusers import DiffusersNetwork

__all__ = ["DiffusersNetwork"]
