"""Frozen text: captions as the states of a finished text model, which are computed once and then served as data."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.models.conditioner import Conditioner
from suffuse.models.text import CAPTION, TextConditioner, TextPart

__all__ = ["LENGTH", "FrozenText", "FrozenTextConditioner", "TextModel"]

LENGTH = "caption_length"
_AT_ONCE = 64
# Of a text model's configuration: where it was read from and by what, which a model that is moved must not depend on.
_ELSEWHERE = ("_name_or_path", "transformers_version")


class TextModel:
    """A text model of the Hugging Face Hub or of a folder: its tokenizer and its encoder, without gradients.

    Args:
        name: Folder, or owner/name on the Hub; CLIP, T5, BERT and other encoders.
        layer: Which hidden states: -1 the last, normed as the model norms it; -2 those before the last layer.
        device: Where it runs.

    Raises:
        UsageError: transformers is not installed; no such model; a folder without a tokenizer or with pickles alone.
    """

    def __init__(self, name: str, layer: int = -1, device: torch.device | str = "cpu") -> None:
        if importlib.util.find_spec("transformers") is None:
            raise UsageError(f"text model {name!r} needs transformers; pip install 'suffuse[text]'")
        import transformers

        self.name, self.layer, self.device = name, layer, torch.device(device)
        try:
            config = transformers.AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise UsageError(f"text model {name!r} cannot be found ({_line(error)}); give a folder or a name") from None
        classes = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}
        kind = getattr(transformers, classes.get(config.model_type, "AutoModel"))
        try:
            self.model: Any = kind.from_pretrained(name, use_safetensors=True)  # Any: an optional package's class
        except (OSError, ValueError) as error:
            raise UsageError(
                f"text model {name!r} has no weights as safetensors ({_line(error)}); convert them first, pickles are "
                "not read"
            ) from None
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, ImportError, TypeError) as error:
            raise UsageError(
                f"text model {name!r} has no tokenizer ({_line(error)}); put the files of its tokenizer beside it"
            ) from None
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = self.model.eval().requires_grad_(requires_grad=False).to(self.device)

    @property
    def width(self) -> int:
        """Of its states."""
        config = self.model.config
        return int(getattr(config, "hidden_size", None) or config.d_model)

    @property
    def longest(self) -> int | None:
        """Tokens that it can read; None when nothing is said."""
        told = getattr(self.model.config, "max_position_embeddings", None)
        return None if told is None else int(told)

    @property
    def hash(self) -> str:
        """Of its configuration, weights and tokenizer, 16 hexadecimal digits."""
        config = self.model.config.to_dict()
        plain = {name: config[name] for name in config if name not in _ELSEWHERE}
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode())
        digest.update(json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def encode(self, texts: Sequence[str], length: int) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
        """States of texts, a few at a time.

        Args:
            texts: What to read.
            length: Tokens at most, to which all are filled up.

        Yields:
            States (b, length, D) float32; how many of them count, (b,) int64; places within `texts` of those cut.
        """
        for start in range(0, len(texts), _AT_ONCE):
            some = list(texts[start : start + _AT_ONCE])
            kept = self.tokenizer(some, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            whole = self.tokenizer(some)["input_ids"]
            cut = [start + place for place, ids in enumerate(whole) if len(ids) > length]
            ids, mask = kept["input_ids"].to(self.device), kept["attention_mask"].to(self.device)
            found = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=self.layer != -1)
            states = found.last_hidden_state if self.layer == -1 else found.hidden_states[self.layer]
            yield states.float().cpu(), mask.sum(1).cpu(), cut


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class FrozenTextConditioner(TextConditioner):
    """The live conditioner of a `FrozenText`; without a learned token it keeps the states of the empty prompt.

    Args:
        part: Its configuration.
    """

    reads = (CAPTION, LENGTH)
    empty: Tensor
    empty_length: Tensor

    def __init__(self, part: FrozenText) -> None:
        super().__init__(part.width)
        self.part, self.length, self.width = part, part.length, part.width
        if part.absent == "empty":
            del self.nothing
            self.register_buffer("empty", torch.zeros(part.length, part.width))
            self.register_buffer("empty_length", torch.tensor(part.length))
        else:
            nn.init.normal_(self.nothing, std=0.02, generator=torch.Generator().manual_seed(part.width))

    @torch.no_grad()
    def fill(self, model: TextModel) -> None:
        """Keep a text model's states of the empty prompt; without effect where a learned token stands for it."""
        if self.part.absent == "empty":
            states, counts, _ = next(model.encode(("",), self.length))
            self.empty.copy_(states[0])
            self.empty_length.copy_(counts[0])

    def check(self, cond: Conditions) -> None:
        """Raise a `UsageError` for states of another width."""
        if CAPTION in cond.values and cond.values[CAPTION].shape[1:] != (self.length, self.width):
            raise UsageError(
                f"captions come as states {tuple(cond.values[CAPTION].shape[1:])}, but this model takes "
                f"{(self.length, self.width)}; make them by its own text model"
            )

    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        """The states of the captions, (B, L, D)."""
        if self.part.absent == "empty":
            return self._or_empty(cond, batch)
        if CAPTION not in cond.values:
            return self.alone(batch)
        states = cond.values[CAPTION]
        counts = torch.arange(states.shape[1], device=states.device) < self._lengths(cond)[:, None]
        return self.without(states, counts, cond.present[CAPTION])

    def _lengths(self, cond: Conditions) -> Tensor:
        """Tokens that count, (B,)."""
        counts = cond.values[LENGTH]
        return counts if self.part.masked else torch.full_like(counts, self.length)

    def _or_empty(self, cond: Conditions, batch: int) -> Embedding:
        """States, with those of the empty prompt in place of captions that are absent."""
        tokens = self.empty.expand(batch, -1, -1)
        counts = self.empty_length.expand(batch)
        if CAPTION in cond.values:
            present, states = cond.present[CAPTION], cond.values[CAPTION]
            tokens = states.where(present[:, None, None], tokens.to(states.dtype))
            counts = cond.values[LENGTH].where(present, counts)
        if not self.part.masked:
            return Embedding(tokens=tokens)
        places = torch.arange(self.length, device=tokens.device)
        return Embedding(tokens=tokens, tokens_mask=places < counts[:, None])


class FrozenText(TextPart):
    """Captions as states of a frozen text model (CLIP, T5, ...).

    The model reads every caption once, before training; it is not kept in the run, whose prompts need it again by its
    name, unless the name is that of a folder in the run's own.

    Attributes:
        model: Folder of the text model, within the run's folder or elsewhere, or owner/name on the Hub.
        layer: Which hidden states: -1 the last, -2 those before the last layer (podell2024sdxl).
        width: Of its states, which is filled in.
        absent: What stands for "no caption": `learned`, one token; or `empty`, the states of the empty prompt, which
            are kept with the weights (stable diffusion's and pernias2024wuerstchen's released networks).
        masked: Networks see the caption's own tokens alone; false for all `length`, whatever fills them up.
        hash: Of the text model, which is filled in.
    """

    kind: Literal["frozen_text"] = "frozen_text"
    model: str = "openai/clip-vit-large-patch14"
    layer: int = Field(default=-1, le=-1)
    length: int = Field(default=77, ge=2)
    width: int = Field(default=1, ge=1)
    absent: Literal["learned", "empty"] = "learned"
    masked: bool = True
    hash: str = ""

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """A module with one learned token, or with room for the states of the empty prompt."""
        return FrozenTextConditioner(self)

    def opened(self, device: torch.device | str = "cpu", folder: Path | None = None) -> TextModel:
        """The text model.

        Args:
            device: Where it runs.
            folder: Of the run, in which it is looked for first.

        Raises:
            UsageError: It cannot be loaded, or is not the one that was used before.
        """
        place = Path(self.model).expanduser()
        if folder is not None and (folder / place / "config.json").is_file():
            place = folder / place
        found = TextModel(str(place) if place.is_dir() else self.model, self.layer, device)
        if found.longest is not None and found.longest < self.length:
            raise UsageError(
                f"conditioner.length is {self.length}, but text model {self.model!r} reads {found.longest} tokens at "
                "most; choose fewer"
            )
        if self.hash and found.hash != self.hash:
            raise UsageError(
                f"text model {self.model!r} is not the one that this model was trained with ({found.hash}, not "
                f"{self.hash}); bring that one back"
            )
        return found
