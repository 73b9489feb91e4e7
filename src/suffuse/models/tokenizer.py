"""Tokenizer: texts to numbers and back, by pairs of bytes that were frequent in the captions it was made from.

Any text can be written so, in any script: no token is unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["START", "TOKENIZER_FILE", "Tokenised", "Tokenizer"]

TOKENIZER_FILE = "tokenizer.json"
PAD, START = 0, 1
_OWN = 2  # our numbers stand before the vocabulary's: no text can spell them
_BYTES = 256


@dataclass(frozen=True)
class Tokenised:
    """Texts as numbers.

    Attributes:
        ids: (n, length) int64: a start, the text, and zeros behind it.
        cut: Numbers of the texts that were too long and lost their end.
    """

    ids: NDArray[np.int64]
    cut: tuple[int, ...]


class Tokenizer:
    """Byte-level BPE, by the library `tokenizers`.

    Args:
        live: The library's own.
    """

    def __init__(self, live: tokenizers.Tokenizer) -> None:
        self._live = live

    @classmethod
    def trained(cls, captions: Sequence[str], vocabulary: int) -> Tokenizer:
        """Make one from captions.

        Args:
            captions: What it shall write shortly.
            vocabulary: Number of tokens at most, with the 256 bytes.

        Raises:
            UsageError: Fewer tokens than bytes.
        """
        from tokenizers import Tokenizer as Live
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

        if vocabulary < _BYTES:
            raise UsageError(
                f"vocabulary is {vocabulary}, but the {_BYTES} bytes alone need as many; choose a larger one"
            )
        live = Live(models.BPE())
        live.normalizer = normalizers.NFC()
        live.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        live.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        live.train_from_iterator(captions, trainer)
        return cls(live)

    @classmethod
    def read(cls, folder: Path, expected: str = "") -> Tokenizer:
        """Read `tokenizer.json` of a model's folder.

        Args:
            folder: The model's.
            expected: Hash of the one that it was trained with; any when empty.

        Raises:
            UsageError: There is none, or it is another one.
            RunError: It is broken.
        """
        from tokenizers import Tokenizer as Live

        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise UsageError(f"{path} is missing: it turns prompts into this model's tokens; bring it back")
        try:
            found = cls(Live.from_file(str(path)))
        except Exception as error:  # the library raises plain exceptions
            raise RunError(f"{path} cannot be read as a tokenizer ({error}); bring it back") from error
        if expected and found.hash != expected:
            raise UsageError(
                f"{path} is not the tokenizer that this model was trained with ({found.hash}, not {expected}); bring "
                "that one back"
            )
        return found

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`."""
        files.write_text(folder / TOKENIZER_FILE, self._live.to_str())

    @property
    def hash(self) -> str:
        """Of what it does, 16 hexadecimal digits."""
        return hashlib.sha256(self._live.to_str().encode()).hexdigest()[:16]

    @property
    def size(self) -> int:
        """How many numbers there are, with our own."""
        return int(self._live.get_vocab_size()) + _OWN

    def encode(self, texts: Sequence[str], length: int) -> Tokenised:
        """Texts as numbers, cut or filled up to `length`."""
        ids, cut = np.full((len(texts), length), PAD, np.int64), []
        ids[:, 0] = START
        for place, found in enumerate(self._live.encode_batch(list(texts), add_special_tokens=False)):
            if len(found.ids) > length - 1:
                cut.append(place)
            kept = np.array(found.ids[: length - 1], np.int64) + _OWN
            ids[place, 1 : 1 + len(kept)] = kept
        return Tokenised(ids, tuple(cut))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of numbers, without our own."""
        return str(self._live.decode([number - _OWN for number in ids if number >= _OWN])).strip()
