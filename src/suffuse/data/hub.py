"""Pictures from a data set in the format of Hugging Face `datasets`, from the hub or from a local folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from suffuse.base.errors import UsageError, unknown_name
from suffuse.data.ingest import Listing, PicturesPart
from suffuse.data.layout import Layout, Picture, class_names

if TYPE_CHECKING:
    import datasets

__all__ = ["HubImages"]


class HubImages(PicturesPart):
    """Pictures of a `datasets` data set; needs the extra `datasets`.

    Attributes:
        path: Name on the hub, or a folder written by `save_to_disk`.
        config: Which of the data set's configurations.
        split: Which split.
        revision: Branch, tag or commit on the hub.
        image: Column of the pictures; None for the only one of that type.
        label: Column of the classes; None for none.
        caption: Column of the captions; None for none.
    """

    kind: Literal["hub"] = "hub"
    path: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    image: str | None = None
    label: str | None = None
    caption: str | None = None

    def anchored(self) -> Self:
        """The same data set; a folder by its absolute path, a name on the hub as it is."""
        folder = Path(self.path).expanduser()
        return self.replace(path=str(folder.absolute())) if folder.is_dir() else self

    @contextmanager
    def _listing(self) -> Iterator[Listing]:
        table = self._table()
        image = self._image_column(table)
        raw = table.cast_column(image, _as_bytes())

        def read(place: int) -> bytes:
            cell = raw[place][image]
            if cell is None:
                return b""
            return Path(cell["path"]).read_bytes() if cell["bytes"] is None else bytes(cell["bytes"])

        # The library's own hash of the table and of all that was done to it; no public name gives it.
        key = f"{table._fingerprint}/{len(table)}"
        yield Listing(Path(self.path).name, f"data set {self.path!r}", self._layout(table), read, key)

    def _table(self) -> datasets.Dataset:
        try:
            import datasets
        except ImportError:
            raise UsageError(
                "data kind 'hub' needs the package datasets, which is not installed; pip install 'suffuse[datasets]'"
            ) from None
        folder = Path(self.path).expanduser()
        try:
            if folder.is_dir():
                loaded = datasets.load_from_disk(str(folder))
            else:
                loaded = datasets.load_dataset(self.path, self.config, split=self.split, revision=self.revision)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            first = str(error).strip().split("\n")[0]
            raise UsageError(f"cannot load data set {self.path!r}: {first}; check path, config and split") from error
        if isinstance(loaded, datasets.DatasetDict):
            if self.split not in loaded:
                raise unknown_name(f"data set {self.path!r}: split", self.split, loaded)
            loaded = loaded[self.split]
        return loaded

    def _image_column(self, table: datasets.Dataset) -> str:
        import datasets

        found: list[str] = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
        if self.image is not None:
            if self.image not in found:
                raise unknown_name(f"data set {self.path!r}: picture column", self.image, found)
            return self.image
        if len(found) != 1:
            raise UsageError(
                f"data set {self.path!r} has {len(found)} columns of pictures ({', '.join(found) or 'none'} among "
                f"{', '.join(table.column_names)}); name one by image="
            )
        return found[0]

    def _layout(self, table: datasets.Dataset) -> Layout:
        count = len(table)
        labels: list[str | None] = [None] * count
        captions: list[str | None] = [None] * count
        if self.label is not None:
            labels = [*self._names(table, self.label)]
        if self.caption is not None:
            captions = [*self._column(table, self.caption)]
            if wrong := [row for row, text in enumerate(captions) if not isinstance(text, str)]:
                raise UsageError(f"data set {self.path!r}: row {wrong[0]} of {self.caption!r} is not a text")
        pictures = [Picture(f"row {row}", row, labels[row], captions[row]) for row in range(count)]
        return Layout(pictures, self._classes(table, labels))

    def _column(self, table: datasets.Dataset, name: str) -> list[Any]:  # Any: what the column holds
        if name not in table.column_names:
            raise unknown_name(f"data set {self.path!r}: column", name, table.column_names)
        return list(table[name])

    def _names(self, table: datasets.Dataset, column: str) -> list[str]:
        """Class names of all rows."""
        values = self._column(table, column)
        for row, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, str | int) or (value == -1):
                raise UsageError(f"data set {self.path!r}: row {row} of {column!r} has no label but {value!r}")
        to_name = getattr(table.features[column], "int2str", str)  # only the type ClassLabel has names of its own
        return [str(to_name(value)) for value in values]

    def _classes(self, table: datasets.Dataset, labels: list[str | None]) -> tuple[str, ...]:
        """Classes in the data set's own order where it has one."""
        own = () if self.label is None else getattr(table.features[self.label], "names", ())
        return tuple(own) or class_names(name for name in labels if name is not None)


def _as_bytes() -> datasets.Image:
    """The column type that leaves pictures encoded, so that this package's rules decode them."""
    import datasets

    return datasets.Image(decode=False)
