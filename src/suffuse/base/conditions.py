"""Conditions: what a sample is to be, as values plus presence masks, and what a network gets of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Conditions", "Embedding"]


@dataclass(frozen=True)
class Conditions:
    """Named condition values with a mask each that says for which samples the condition is present.

    "No condition" is a mask, never a sentinel value: guidance's unconditional half and the condition dropout of
    training are the same structure.

    Attributes:
        values: Name -> tensor (B, ...), for example `label` (B,) int64.
        present: Name -> (B,) bool.
        instead: What stands in their place where guidance leaves them out: the values of a negative prompt, of the same
            names and shapes; None for nothing.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    present: Mapping[str, Tensor] = field(default_factory=dict)
    instead: Conditions | None = None

    @classmethod
    def of(cls, **values: Tensor) -> Conditions:
        """All given values present."""
        return cls(values, {k: torch.ones(v.shape[0], dtype=torch.bool, device=v.device) for k, v in values.items()})

    def __bool__(self) -> bool:
        return bool(self.values)

    def plus(self, **values: Tensor) -> Conditions:
        """These and more values, which are present for all samples; a name that is there already is replaced."""
        more = Conditions.of(**values)
        return Conditions({**self.values, **more.values}, {**self.present, **more.present}, self.instead)

    def against(self, instead: Conditions) -> Conditions:
        """These, with what guidance shall lead away from: a negative prompt. What it does not name stays left out."""
        more = {name: value for name, value in instead.values.items() if name not in self.values}
        missing = {name: torch.zeros_like(instead.present[name]) for name in more}
        return Conditions({**self.values, **more}, {**self.present, **missing}, instead)

    def absent(self) -> Conditions:
        """The same values, none present, or those that stand in their place: the other half of guidance.

        Always the same object, so that it is embedded once.
        """
        return self._absent

    @functools.cached_property
    def both(self) -> Conditions:
        """Without them and with them, stacked: (B,) -> (2B,)."""
        return self.absent().cat(self)

    @functools.cached_property
    def _absent(self) -> Conditions:
        if self.instead is not None:
            none = {name: torch.zeros_like(mask) for name, mask in self.present.items()}
            return Conditions({**self.values, **self.instead.values}, {**none, **self.instead.present})
        return Conditions(self.values, {name: torch.zeros_like(mask) for name, mask in self.present.items()})

    def drop(self, mask: Tensor) -> Conditions:
        """Conditions without those of the samples in `mask`, (B,) bool: condition dropout."""
        return Conditions(self.values, {name: present & ~mask for name, present in self.present.items()})

    def __getitem__(self, index: slice | Tensor) -> Conditions:
        return Conditions(
            {name: value[index] for name, value in self.values.items()},
            {name: mask[index] for name, mask in self.present.items()},
            None if self.instead is None else self.instead[index],
        )

    def cat(self, other: Conditions) -> Conditions:
        """Stack two batches of the same conditions, (B,) and (B',) -> (B + B',)."""
        return Conditions(
            {name: torch.cat([value, other.values[name]]) for name, value in self.values.items()},
            {name: torch.cat([mask, other.present[name]]) for name, mask in self.present.items()},
        )

    def to(self, device: torch.device | str) -> Conditions:
        """The same conditions on another device."""
        return Conditions(
            {name: value.to(device, non_blocking=True) for name, value in self.values.items()},
            {name: mask.to(device, non_blocking=True) for name, mask in self.present.items()},
            None if self.instead is None else self.instead.to(device),
        )


@dataclass(frozen=True)
class Embedding:
    """What conditioners hand to a network.

    Attributes:
        vector: One vector a sample, added to the time embedding, (B, D); None when there is none.
        tokens: A sequence a sample for cross-attention, (B, N, D), which the network takes as `token_width`; None when
            there is none.
        tokens_mask: Which tokens count, (B, N) bool, at least one of each sample; None when all do.
        map: A small map a sample, (B, C'', h, w), which the network takes as `map_channels` and brings to the sizes of
            its own levels; None when there is none.
        image: Channels beside the noisy sample, (B, C', H, W), which the network takes as `extra_channels`; None when
            there are none. The denoiser puts them there: networks do not look at it.
        shift: What is added to the network's noisy input, (B, C, H, W); None for nothing.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    tokens_mask: Tensor | None = None
    map: Tensor | None = None
    image: Tensor | None = None
    shift: Tensor | None = None

    def beside(self, x: Tensor) -> Tensor:
        """The network's input: x, (B, C, H, W), with the image behind it, (B, C + C', H, W); x itself without one."""
        x = x if self.shift is None else x + self.shift.to(x.dtype)
        return x if self.image is None else torch.cat([x, self.image.to(x.dtype)], dim=1)
