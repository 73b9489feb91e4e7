"""Pictures from a folder or a zip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from suffuse.data.ingest import Listing, PicturesPart
from suffuse.data.layout import Labels, read_layout
from suffuse.data.sources import ZipLimits, open_source

__all__ = ["Images"]


class Images(PicturesPart):
    """Pictures from a folder or a zip: class folders, `metadata.jsonl`, or just pictures (see `data/layout.py`).

    Attributes:
        path: The folder or zip.
        labels: Where classes come from; `auto` takes the metadata where there are any, otherwise class folders.
        label_key: The label in a line of the metadata.
        caption_key: The caption there; `text` or `caption`, whichever there is, when None.
        zip_limits: What a zip may promise before it is refused.
    """

    kind: Literal["images"] = "images"
    path: Path
    labels: Labels = "auto"
    label_key: str = "label"
    caption_key: str | None = None
    zip_limits: ZipLimits = ZipLimits()

    def anchored(self) -> Self:
        """The same pictures by their absolute path."""
        return self.replace(path=self.path.expanduser().absolute())

    @contextmanager
    def _listing(self) -> Iterator[Listing]:
        path = self.path.expanduser()
        shown = repr(str(path))
        with open_source(path, self.zip_limits) as source:
            layout = read_layout(
                source, shown, labels=self.labels, label_key=self.label_key, caption_key=self.caption_key
            )
            layout.left.update(source.passed)
            yield Listing(path.resolve().name.removesuffix(".zip"), shown, layout, source.read, source.key)
