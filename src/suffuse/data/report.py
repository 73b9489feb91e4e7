"""What reading a data source did: how much was read, left out and converted, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import Field

from suffuse.base.part import Part

__all__ = ["DataReport", "Skipped", "summary"]

SHOWN = 10  # names that stand for a longer list


class Skipped(Part):
    """Pictures left out for one reason.

    Attributes:
        count: How many.
        first: Names of the first of them.
    """

    count: int
    first: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """All of `names`, of which the first stay; what is no UTF-8 in them is written as its bytes."""
        first = (name.encode("utf-8", "backslashreplace").decode() for name in names[:SHOWN])
        return cls(count=len(names), first=tuple(first))

    def __str__(self) -> str:
        # Names come from strangers: `repr` keeps newlines and control characters off the terminal.
        more = f" and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        return f"{self.count} ({', '.join(repr(name) for name in self.first)}{more})"


class DataReport(Part):
    """What happened while a source was read.

    Attributes:
        read: Samples in the data set.
        skipped: Reason -> what was left out for it.
        converted: Rule -> how many pictures it changed.
        sizes: "width x height" of the pictures as they came -> how many.
        notes: What else the user should know, a sentence each.
    """

    read: int = 0
    skipped: Mapping[str, Skipped] = Field(default_factory=dict)
    converted: Mapping[str, int] = Field(default_factory=dict)
    sizes: Mapping[str, int] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """The report for people, a line each."""
        sizes = summary(self.sizes)
        return (
            f"read {self.read} samples" + (f" ({sizes})" if sizes else ""),
            *(f"left out, {reason}: {what}" for reason, what in self.skipped.items()),
            *(f"converted, {rule}: {count}" for rule, count in self.converted.items()),
            *self.notes,
        )


def summary(counts: Mapping[str, int], shown: int = 5) -> str:
    """The commonest of some counts in words: "28x28: 59999, 32x32: 1, 7 others: 12"."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{name}: {count}" for name, count in ranked[:shown]]
    if len(ranked) > shown:
        words.append(f"{len(ranked) - shown} others: {sum(count for _, count in ranked[shown:])}")
    return ", ".join(words)
