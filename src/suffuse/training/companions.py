"""Companions of the data that a conditioner reads: captions as its tokens or states, pictures behind latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from suffuse.base.errors import RunError, UsageError
from suffuse.data import Dataset
from suffuse.data.cache import ArrayFile, Filled, cached
from suffuse.data.companion import Companion
from suffuse.data.report import DataReport
from suffuse.models.conditioner import ConditionerPart
from suffuse.models.frozen_text import LENGTH, FrozenText
from suffuse.models.pretrained import load_alignment_config, local_folder
from suffuse.models.semantic import IMAGE
from suffuse.models.text import CAPTION, Text, TextPart
from suffuse.models.tokenizer import TOKENIZER_FILE, Tokenizer
from suffuse.training.first_stages import with_first_stage
from suffuse.training.run_files import RECIPE_FILE

__all__ = ["CaptionReader", "accompanied", "settled"]

Note = Callable[[str], None]

_SHOWN = 3
_ALIGNED = ("length", "width", "depth", "heads", "most", "vocabulary", "tokenizer")  # what an encoder is made of


def settled(conditioner: ConditionerPart, images: Dataset, folder: Path, device: torch.device) -> ConditionerPart:
    """The conditioner with what the data decide about it: tokenizer, width of a text model, size of pictures.

    Args:
        conditioner: As the recipe has it.
        images: The data as they came, before any codec.
        folder: Of the run; a tokenizer is made from the captions and kept there, unless there is one.
        device: Where a text model runs.

    Raises:
        UsageError: It reads captions and the data have none, or a text model that cannot be used.
    """
    text = conditioner.text
    if text is not None:
        if images.captions is None:
            raise UsageError(
                f"conditioner {conditioner.kind!r} reads captions, but data {images.name!r} have none; choose data "
                "that do (a metadata.jsonl with `text` beside the pictures), or conditioner=none"
            )
        if not any(caption.strip() for caption in images.captions):
            raise UsageError(
                f"conditioner {conditioner.kind!r} reads captions, but all {len(images)} of data {images.name!r} are "
                "empty; write some, name the key that holds them (data.caption_key=...), or use conditioner=none"
            )
        conditioner = conditioner.reading(_settled_text(text, images.captions, folder, device))
    conditioner = with_first_stage(conditioner, images, folder)
    if conditioner.companion is not None:
        found = _companion(conditioner.companion, images)
        conditioner = conditioner.seeing_companion(found.shape)
    return conditioner.seeing(images.shape) if conditioner.sees_images else conditioner


def _companion(name: str, images: Dataset) -> Companion:
    if name not in images.companions:
        raise UsageError(
            f"the conditioner reads a {name} of each sample, but data {images.name!r} have none; name the key of the "
            "second pictures in metadata.jsonl (data.condition_key=conditioning_image), or use data.forms=true of "
            "shapes"
        )
    return images.companions[name]


def _settled_text(text: TextPart, captions: tuple[str, ...], folder: Path, device: torch.device) -> TextPart:
    if isinstance(text, Text):
        if text.run is not None and not _is_settled(text, folder):
            return _aligned_text(text, text.run, folder)
        # That of a start which was refused before its first step was made of other captions, perhaps.
        if (folder / TOKENIZER_FILE).is_file() and (text.tokenizer or (folder / RECIPE_FILE).is_file()):
            tokenizer = Tokenizer.read(folder, text.tokenizer)
        else:
            tokenizer = Tokenizer.trained(captions, text.most)
            if text.tokenizer not in ("", tokenizer.hash):
                raise UsageError(
                    f"conditioner.tokenizer is {text.tokenizer}, but these captions make {tokenizer.hash}: put that "
                    f"{TOKENIZER_FILE} into {folder}, or leave conditioner.tokenizer out"
                )
            tokenizer.save(folder)
        return text.replace(vocabulary=tokenizer.size, tokenizer=tokenizer.hash)
    assert isinstance(text, FrozenText)
    model = text.opened(device, folder)
    return text.replace(width=model.width, hash=model.hash)


def _is_settled(text: Text, folder: Path) -> bool:
    """Whether the run has the tokenizer of its text encoder already, and knows it: the other run is not asked again."""
    if not text.tokenizer or not (folder / TOKENIZER_FILE).is_file():
        return False
    return Tokenizer.read(folder).hash == text.tokenizer


def _aligned_text(text: Text, run: str, folder: Path) -> TextPart:
    """The encoder of a run of an alignment, whose tokenizer is copied."""
    try:
        place = local_folder(run)
        made = load_alignment_config(place).text
        tokenizer = Tokenizer.read(place, made.tokenizer)
    except (UsageError, RunError) as error:
        raise UsageError(
            f"conditioner.run {run!r} cannot be opened ({error}); train an alignment first, such as suffuse train "
            "shapes-alignment, and name its run"
        ) from None
    taken = {name: getattr(made, name) for name in _ALIGNED}
    for name, value in taken.items():
        if name in text.model_fields_set and getattr(text, name) not in (value, type(text).model_fields[name].default):
            raise UsageError(
                f"conditioner.{name} is {getattr(text, name)}, but the text encoder of conditioner.run has {value}; "
                "leave it out, it is filled in"
            )
    tokenizer.save(folder)
    return text.replace(**taken, run=str(Path(run).expanduser().absolute()) if Path(run).is_dir() else run)


@dataclass(frozen=True)
class CaptionReader:
    """Captions to what a conditioner reads of them.

    Attributes:
        text: The part that reads them, settled.
        folder: Where its tokenizer is.
        device: Where a text model runs.
    """

    text: TextPart
    folder: Path
    device: torch.device

    def companions(self, captions: tuple[str, ...], note: Note) -> dict[str, Companion]:
        """Conditions by name, each caption read once; an empty caption is none.

        Args:
            captions: One a sample.
            note: Told of captions that are empty or were cut.
        """
        unique = tuple(dict.fromkeys(captions))
        places = {caption: place for place, caption in enumerate(unique)}
        rows = np.array([places[caption] for caption in captions], np.int64)
        present = np.array([bool(caption.strip()) for caption in captions])
        if not present.all():
            note(f"{(~present).sum()} of {len(captions)} captions are empty, which stands for no text")
        tables, cut = self._tables(unique)
        if cut:
            shown = ", ".join(repr(unique[place][:60]) for place in cut[:_SHOWN])
            note(
                f"{np.isin(rows, cut).sum()} of {len(captions)} captions are longer than {self.text.length} tokens and "
                f"lose their end ({shown}); shorten them, or train with a larger conditioner.length"
            )
        mask = None if present.all() else present
        return {name: Companion(table, rows, mask) for name, table in tables.items()}

    def _tables(self, unique: tuple[str, ...]) -> tuple[dict[str, NDArray[np.generic]], tuple[int, ...]]:
        """What is read of different captions, by name, and the places of those that were cut."""
        if isinstance(self.text, Text):
            found = Tokenizer.read(self.folder, self.text.tokenizer).encode(unique, self.text.length)
            return {CAPTION: found.ids}, found.cut
        assert isinstance(self.text, FrozenText)
        return self._states(self.text, unique)

    def _states(
        self, text: FrozenText, unique: tuple[str, ...]
    ) -> tuple[dict[str, NDArray[np.generic]], tuple[int, ...]]:
        """States of a frozen text model in a mapped file of the user's cache."""

        def fill(file: ArrayFile) -> Filled:
            lengths: list[int] = []
            cut: list[int] = []
            for states, counts, some in text.opened(self.device, self.folder).encode(unique, text.length):
                for state in states.numpy():
                    file.add(state[None])
                lengths += counts.tolist()
                cut += some
            # The counts travel as the labels of the cached file, the cut ones as its notes.
            report = DataReport(read=len(unique), notes=tuple(str(place) for place in cut))
            classes = tuple(str(n) for n in range(text.length + 1))
            return Filled(np.array(lengths, np.int64), None, classes, report)

        key = {"text": text.hash, "layer": text.layer, "length": text.length, "captions": unique}
        made = cached(None, "captions", key, fill)
        assert made.labels is not None
        cut = tuple(int(note) for note in made.report.notes if note.isdecimal())
        return {CAPTION: made.store[:, 0], LENGTH: made.labels}, cut


def accompanied(
    parts: Sequence[tuple[Dataset, Dataset]],
    conditioner: ConditionerPart,
    folder: Path,
    device: torch.device,
    note: Note = lambda text: None,
) -> tuple[Dataset, ...]:
    """Data sets with the conditions that a conditioner reads beside the label; their captions are read as one.

    Args:
        parts: What the model learns, images or latents of them, and the images as they came: one pair, or one a bucket.
        conditioner: Settled.
        folder: Of the run.
        device: Where a text model runs.
        note: Told what a user should know of the captions.
    """
    told = _captions(tuple(images for _, images in parts), conditioner, folder, device, note)
    return tuple(
        _with_pictures(dataset, images, conditioner).beside(**own)
        for (dataset, images), own in zip(parts, told, strict=True)
    )


def _captions(
    parts: tuple[Dataset, ...], conditioner: ConditionerPart, folder: Path, device: torch.device, note: Note
) -> Iterator[dict[str, Companion]]:
    """What is read of the captions of each part, by name."""
    found: dict[str, Companion] = {}
    if conditioner.text is not None:
        captions: list[str] = []
        for images in parts:
            if images.captions is None:
                raise UsageError(f"data {images.name!r} have no captions, which this model reads; choose data that do")
            captions += images.captions
        found = CaptionReader(conditioner.text, folder, device).companions(tuple(captions), note)
    start = 0
    for images in parts:
        places = np.arange(start, start + len(images))
        yield {name: companion.of(places) for name, companion in found.items()}
        start += len(images)


def _with_pictures(dataset: Dataset, images: Dataset, conditioner: ConditionerPart) -> Dataset:
    """With the pictures that are read: companions of the images, and the images behind latents."""
    if conditioner.draws_from is not None and dataset is not images and not conditioner.sees_images:
        raise UsageError(
            "conditioner.run draws small images, but in latents conditioner.of is 'sample', which enlarges small "
            "latents; set conditioner.of=image"
        )
    if conditioner.companion is not None:
        # Latents are made anew of the images, and have nothing beside them.
        dataset = dataset.beside(**{conditioner.companion: _companion(conditioner.companion, images)})
    if conditioner.sees_images:
        rows = np.arange(len(images)) if images.rows is None else images.rows
        dataset = dataset.beside(**{IMAGE: Companion(images.store, rows)})
    return dataset
