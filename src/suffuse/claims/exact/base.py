"""The contract of experiments without training: values computed on densities whose best network is known exactly."""

from __future__ import annotations

import abc

from suffuse.base.part import Part

__all__ = ["ExactPart"]


class ExactPart(Part, abc.ABC):
    """A computation on a known density."""

    kind: str

    @abc.abstractmethod
    def of(self, seed: int) -> dict[str, float]:
        """Values by name; the seed is that of points and noise."""
