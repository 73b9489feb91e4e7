"""Conditioners: from conditions to what a network gets of them. Text comes through the same door later."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.part import Part

if TYPE_CHECKING:
    from suffuse.models.text import TextPart

__all__ = ["ClassLabel", "ClassToken", "Conditioner", "ConditionerPart", "LabelNumber", "NoCondition"]


class Conditioner(nn.Module, abc.ABC):
    """Live conditioner.

    Attributes:
        reads: Names of the conditions that it understands.
        observes: Those of them that `observe` can compute.
    """

    reads: tuple[str, ...] = ()
    observes: tuple[str, ...] = ()

    @abc.abstractmethod
    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        """Embed the conditions of `batch` samples; what is absent becomes the learned "no condition".

        Args:
            cond: The conditions.
            batch: How many samples.
            seeds: Keys of all its randomness, (B,) int64, in training; None switches it off.
        """

    def check(self, cond: Conditions) -> None:
        """Raise a `UsageError` for values that the model does not know; once for all, while they are on the CPU."""

    def drawn(self, keys: Tensor) -> Conditions | None:
        """Conditions of samples of which nothing is asked, by their keys, (B,) int64; None when it draws none."""
        return None

    def observe(self, x0: Tensor, cond: Conditions, keys: Tensor | None = None) -> Conditions:
        """Conditions of the data x0, (B, ...), with those added that can be computed from the data themselves.

        Training calls it before it hides conditions. What is in `cond` already stays as it is.

        Args:
            x0: The data.
            cond: What is known of them.
            keys: Of what is drawn for it, such as masks, (B,) int64; those of samples 0, 1, 2, ... when None.
        """
        return cond


class ConditionerPart(Part, abc.ABC):
    """Configuration of a conditioner."""

    kind: str

    @property
    def label_count(self) -> int:
        """How many classes its `label` may name, K; 0 when it reads no labels."""
        return 0

    @property
    def text(self) -> TextPart | None:
        """The part of it that reads captions; None when it reads none."""
        return None

    @property
    def sees_images(self) -> bool:
        """Whether it is told of the pictures themselves in training, as `image`, also where the data are latents."""
        return False

    @property
    def companion(self) -> str | None:
        """Name of the picture that it reads beside each sample of the data; None for most."""
        return None

    @property
    def draws(self) -> bool:
        """Whether what it tells in training is drawn by the sample's key: two models then are not told the same."""
        return False

    @property
    def draws_from(self) -> str | None:
        """Run of a finished generator whose samples are its condition where none is given; None for most.

        A run keeps a copy in `parts/`, see `training.frozen_parts`.
        """
        return None

    def reading(self, text: TextPart) -> Self:
        """This with another part that reads captions."""
        raise UsageError(f"conditioner {self.kind!r} reads no captions")

    def seeing(self, shape: tuple[int, ...]) -> Self:
        """This for pictures of one shape, (C, H, W), if it sees any."""
        return self

    def seeing_companion(self, shape: tuple[int, ...]) -> Self:
        """This for companion pictures of one shape, (C, H, W), if it reads any."""
        return self

    @property
    def token_width(self) -> int:
        """Width of the tokens that it gives; 0 when it gives none."""
        return 0

    @property
    def map_channels(self) -> int:
        """Channels of the map that it gives; 0 when it gives none."""
        return 0

    def extra_channels(self, shape: tuple[int, ...]) -> int:
        """How many channels it puts beside samples of `shape`, which the network must take.

        Raises:
            UsageError: It cannot condition samples of this shape.
        """
        return 0

    @abc.abstractmethod
    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """Make the live module.

        Args:
            width: Of its vectors: the network's `cond_width`.
            shape: Of one sample, (C, H, W) or (D,); of no account to conditioners that give vectors alone.

        Raises:
            UsageError: It does not go together with such a network or such samples.
        """


class _Nothing(Conditioner):
    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        return Embedding()


class NoCondition(ConditionerPart):
    """An unconditional model; conditions that are handed in are ignored by name: it reads none."""

    kind: Literal["none"] = "none"

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """A module without weights."""
        return _Nothing()


class _Labels(Conditioner):
    """What label conditioners share: labels are 0..K-1, and "no class" is K.

    Args:
        classes: K.
        null: Whether the network knows K.
    """

    reads = ("label",)

    def __init__(self, classes: int, *, null: bool) -> None:
        super().__init__()
        self.classes, self.null = classes, null

    def check(self, cond: Conditions) -> None:
        """Raise a `UsageError` for a label outside 0..K-1, or an absent one where there is no "no class"."""
        if "label" in cond.values:
            labels = cond.values["label"][cond.present["label"]]
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
                raise UsageError(
                    f"labels run from {int(labels.min())} to {int(labels.max())}, but the model knows 0 to "
                    f"{self.classes - 1}; choose among these"
                )
        self._check_absent(cond)

    def _check_absent(self, cond: Conditions) -> None:
        if not self.null and not ("label" in cond.values and bool(cond.present["label"].all())):
            raise UsageError(
                "a sample has no label, and this model has no row for 'no class'; give every sample a label, and "
                "sample without guidance that leaves labels out (cfg)"
            )

    def _numbers(self, cond: Conditions, batch: int, device: torch.device) -> Tensor:
        """Label or K of each sample, (B,) of an integer type."""
        self._check_absent(cond)  # without "no class" this waits for the device: better than a wrong row
        if "label" not in cond.values:
            return torch.full((batch,), self.classes, device=device)
        return torch.where(cond.present["label"], cond.values["label"], self.classes)


class _LabelTable(_Labels):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes, null=True)
        rows = torch.empty(classes + 1, width)
        nn.init.normal_(rows, std=0.02, generator=torch.Generator().manual_seed(classes))
        self.table = nn.Embedding(classes + 1, width, _weight=rows)

    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        return Embedding(vector=self.table(self._numbers(cond, batch, self.table.weight.device)))


class ClassLabel(ConditionerPart):
    """A learned vector for each class and one more for "no class", added to the time embedding.

    Source: dhariwal2021adm, Section 3.1; the extra row as in peebles2023dit.

    Attributes:
        classes: Number of classes, K; labels are 0..K-1.
    """

    kind: Literal["class_label"] = "class_label"
    classes: int = Field(ge=1)

    @property
    def label_count(self) -> int:
        """K."""
        return self.classes

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """A table (K + 1, width)."""
        if width < 1:
            raise UsageError(
                "conditioner 'class_label' needs a network that takes a condition vector; this one has none"
            )
        return _LabelTable(self.classes, width)


class _LabelToken(_Labels):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes, null=True)
        rows = torch.empty(classes + 1, width)
        nn.init.normal_(rows, generator=torch.Generator().manual_seed(classes))
        self.table = nn.Embedding(classes + 1, width, _weight=rows)

    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        numbers = self._numbers(cond, batch, self.table.weight.device)
        return Embedding(tokens=self.table(numbers)[:, None])


class ClassToken(ConditionerPart):
    """A learned token for each class and one more for "no class", to which the network attends.

    Source: rombach2022ldm, Appendix E.2 (class-conditional models: one token of 512 numbers).

    Attributes:
        classes: Number of classes, K; labels are 0..K-1.
        width: Of a token.
    """

    kind: Literal["class_token"] = "class_token"
    classes: int = Field(default=1000, ge=1)
    width: int = Field(default=512, ge=1)

    @property
    def label_count(self) -> int:
        """K."""
        return self.classes

    @property
    def token_width(self) -> int:
        """The width."""
        return self.width

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """A table (K + 1, width of a token)."""
        return _LabelToken(self.classes, self.width)


class _LabelNumber(_Labels):
    place: Tensor

    def __init__(self, classes: int, *, null: bool) -> None:
        super().__init__(classes, null=null)
        # It has no weights: an empty buffer tells on which device the model is.
        self.register_buffer("place", torch.empty(0), persistent=False)

    def forward(self, cond: Conditions, batch: int, seeds: Tensor | None = None) -> Embedding:
        return Embedding(vector=self._numbers(cond, batch, self.place.device)[:, None])


class LabelNumber(ConditionerPart):
    """The number of the class itself, (B, 1), for networks that embed labels themselves, as those of diffusers do.

    Attributes:
        classes: Number of classes, K; labels are 0..K-1.
        null: Whether the network's table has a row K for "no class". `DiTTransformer2DModel` has one; `UNet2DModel` has
            none, unless it was trained with a class more for this. Without, absent labels are refused.
    """

    kind: Literal["label_number"] = "label_number"
    classes: int = Field(ge=1)
    null: bool

    @property
    def label_count(self) -> int:
        """K."""
        return self.classes

    def build(self, width: int, shape: tuple[int, ...] = ()) -> Conditioner:
        """A module without weights."""
        if width != 1:
            raise UsageError(
                f"conditioner 'label_number' needs a network that embeds labels itself (width 1), but this one takes "
                f"vectors of width {width}; use 'class_label'"
            )
        return _LabelNumber(self.classes, null=self.null)
