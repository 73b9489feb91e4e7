"""Text: captions become tokens that networks attend to, by a small transformer that is trained along."""

from __future__ import annotations

import abc
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.models.conditioner import Conditioner, ConditionerPart
from suffuse.models.tokenizer import PAD
from suffuse.networks.blocks.attention import SelfAttention
from suffuse.networks.blocks.initialise import zero_weights
from suffuse.networks.part import seeded

__all__ = ["CAPTION", "Text", "TextConditioner", "TextEncoder", "TextPart", "mean_token"]

CAPTION = "caption"


class TextPart(ConditionerPart, abc.ABC):
    """Configuration of a conditioner that reads captions.

    Attributes:
        length: Tokens of a caption at most; a longer one loses its end.
        width: Of the tokens that networks get.
    """

    length: int = Field(default=32, ge=2)
    width: int = Field(default=128, ge=1)

    @property
    def token_width(self) -> int:
        """The width."""
        return self.width

    @property
    def text(self) -> TextPart | None:
        """Itself."""
        return self

    def reading(self, text: TextPart) -> Self:
        """The other part."""
        return text  # type: ignore[return-value]  # of the same kind: itself with fields filled in


class TextConditioner(Conditioner):
    """What text conditioners share: samples without a caption get a learned token alone.

    Args:
        width: Of a token.
    """

    reads: tuple[str, ...] = (CAPTION,)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(width))

    def without(self, tokens: Tensor, counts: Tensor, present: Tensor) -> Embedding:
        """Tokens and their mask, with the learned one in place of those of samples that have no caption.

        Args:
            tokens: (B, L, D).
            counts: Which of them count, (B, L) bool.
            present: Which samples have a caption, (B,) bool.
        """
        first = torch.arange(counts.shape[1], device=counts.device) == 0
        tokens = torch.where(present[:, None, None], tokens, self.nothing.to(tokens.dtype))
        return Embedding(tokens=tokens, tokens_mask=torch.where(present[:, None], counts, first))

    def alone(self, batch: int) -> Embedding:
        """The learned token for samples of which none has a caption."""
        return Embedding(tokens=self.nothing.expand(batch, 1, -1))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = SelfAttention(width, heads)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x), mask=mask)
        value: Tensor = x + self.outer(F.gelu(self.inner(self.norm2(x))))
        return value


class TextEncoder(TextConditioner):
    """Live small transformer over the tokens of captions.

    Args:
        part: Its configuration.
        vector_width: Of the pooled vector, where there is one.
    """

    def __init__(self, part: Text, vector_width: int) -> None:
        super().__init__(part.width)
        self.part, self.length, self.vocabulary = part, part.length, part.vocabulary
        self.table = nn.Embedding(part.vocabulary, part.width)
        self.places = nn.Parameter(torch.empty(part.length, part.width))
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.places, std=0.01)
        nn.init.normal_(self.nothing, std=0.02)
        self.layers = nn.ModuleList(_Layer(part.width, part.heads) for _ in range(part.depth))
        self.norm = nn.LayerNorm(part.width)
        if part.frozen:  # not the token for "no caption", of which a run that saw only captions knows nothing
            for p in (*self.table.parameters(), self.places, *self.layers.parameters(), *self.norm.parameters()):
                p.requires_grad = False
        self.pooled = nn.Linear(part.width, vector_width) if part.pooled else None
        if self.pooled is not None:
            zero_weights(self.pooled)

    def check(self, cond: Conditions) -> None:
        """Raise a `UsageError` for tokens that the model does not know."""
        if CAPTION not in cond.values:
            return
        ids = cond.values[CAPTION]
        if ids.ndim != 2 or ids.shape[1] > self.length or ids.is_floating_point():
            raise UsageError(
                f"captions are numbers of tokens (B, up to {self.length}), not {tuple(ids.shape)} of type {ids.dtype}; "
                "make them by the model's tokenizer"
            )
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary:
            raise UsageError(
                f"captions have the token {int(ids.max())}, but the model knows {self.vocabulary}; make them by the "
                "model's own tokenizer"
            )

    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        """Tokens of the captions, (B, L, D)."""
        if CAPTION not in cond.values:
            return self._with_vector(self.alone(batch))
        ids = cond.values[CAPTION]
        counts = ids != PAD
        tokens = self.table(ids) + self.places[: ids.shape[1]]
        for layer in self.layers:
            tokens = layer(tokens, counts[:, None, None, :])
        return self._with_vector(self.without(self.norm(tokens), counts, cond.present[CAPTION]))

    def _with_vector(self, found: Embedding) -> Embedding:
        if self.pooled is None or found.tokens is None:
            return found
        mean = mean_token(found.tokens, found.tokens_mask)
        return Embedding(vector=self.pooled(mean), tokens=found.tokens, tokens_mask=found.tokens_mask)


def mean_token(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the tokens that count, (B, L, D), (B, L) bool -> (B, D); of all without a mask."""
    weights = torch.ones_like(tokens[..., :1]) if mask is None else mask.unsqueeze(2).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1)


class Text(TextPart):
    """Captions through a small transformer that is trained along with the network, or was trained beforehand.

    Its tokenizer is made from the captions of the data before training, and is kept beside the model; that of a
    transformer of another run is its run's.

    Source: rombach2022ldm, Section 3.3 and Appendix E.2.1: a transformer without a mask, trained along.

    Attributes:
        depth: Layers.
        heads: Attention heads of each.
        most: Tokens of the tokenizer at most, with the 256 bytes.
        vocabulary: Tokens that there are, which is filled in when the tokenizer is made.
        pooled: The mean of the tokens is added to the time embedding, too (podell2024sdxl has such a vector).
        tokenizer: Hash of the tokenizer, which is filled in.
        run: Folder of a run that aligned captions with images, whose transformer and tokenizer this one starts from:
            what it is made of is filled in. None for fresh weights.
        frozen: Those weights are not trained any further.
    """

    kind: Literal["text"] = "text"
    depth: int = Field(default=2, ge=0)
    heads: int = Field(default=4, ge=1)
    most: int = Field(default=1000, ge=256)
    vocabulary: int = Field(default=1, ge=1)
    pooled: bool = False
    tokenizer: str = ""
    run: str | None = None
    frozen: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.frozen and self.run is None:
            raise ValueError("frozen is for a transformer that was trained beforehand; name its run, or train it along")
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide width = {self.width}")
        return self

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """The transformer; equal configurations have equal weights."""
        if self.pooled and width < 1:
            raise UsageError(
                "conditioner.pooled adds a vector to the time embedding, but this network takes none; set it to false"
            )
        with seeded(self.vocabulary):
            return TextEncoder(self, width)
