"""The joint of data sources: configuration that loads a data set."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Self

from suffuse.base.part import Part
from suffuse.data.dataset import Dataset

__all__ = ["DataPart"]


class DataPart(Part, abc.ABC):
    """A source of training data. `kind` names it in recipes and on the command line."""

    kind: str

    def anchored(self) -> Self:
        """The same source, found from any working directory: relative paths are made absolute."""
        return self

    @abc.abstractmethod
    def load(self, cache: Path | None = None) -> Dataset:
        """Read or make the data.

        Args:
            cache: Folder of the caches of decoded pictures; the user's cache folder when None. Sources that are made
                rather than read keep nothing there.

        Raises:
            UsageError: The source is not there or its content cannot be used.
            RunError: The cache cannot be written.
        """
