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
        condition_key: The name of the file of a second picture there, such as `conditioning_image`, which the
            conditioner `picture` reads; it is cropped and resized like the first. None for no second pictures.
        condition_resize: How second pictures are resized: `smooth` like the first, `nearest` for maps whose colours
            stand for things and must not mix.
        zip_limits: What a zip may promise before it is refused.
    """

    kind: Literal["images"] = "images"
    path: Path
    labels: Labels = "auto"
    label_key: str = "label"
    caption_key: str | None = None
    condition_key: str | None = None
    condition_resize: Literal["smooth", "nearest"] = "smooth"
    zip_limits: ZipLimits = ZipLimits()

    def anchored(self) -> Self:
        """The same pictures by their absolute path."""
        return self.replace(path=self.path.expanduser().absolute())

    @property
    def _beside(self) -> Literal["smooth", "nearest"] | None:
        return None if self.condition_key is None else self.condition_resize

    @contextmanager
    def _listing(self) -> Iterator[Listing]:
        path = self.path.expanduser()
        shown = repr(str(path))
        with open_source(path, self.zip_limits) as source:
            layout = read_layout(
                source,
                shown,
                labels=self.labels,
                label_key=self.label_key,
                caption_key=self.caption_key,
                condition_key=self.condition_key,
            )
            layout.left.update(source.passed)
            yield Listing(path.resolve().name.removesuffix(".zip"), shown, layout, source.read, source.key)
