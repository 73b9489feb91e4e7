"""Timelines: which blocks computed at which step, and what that cost; as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from suffuse.base.figures import new_figure, save_figure

if TYPE_CHECKING:
    from suffuse.acceleration.macs import BlockMacs
    from suffuse.acceleration.plan import Asked

__all__ = ["Timeline"]


@dataclass(frozen=True)
class Timeline:
    """A run under a plan, step by step.

    Attributes:
        names: The network's names, in order of execution.
        asked: By step, what was asked of the network.
        macs: Of each block; None where nobody counted them.
    """

    names: tuple[str, ...]
    asked: tuple[tuple[Asked, ...], ...]
    macs: BlockMacs | None = None

    def with_macs(self, macs: BlockMacs) -> Timeline:
        """The same with the cost of each block."""
        return replace(self, macs=macs)

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names that compute: what a block adds is one, the sum that it gives is none."""
        return tuple(name for name in self.names if f"{name}.residual" not in self.names)

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.asked)

    def share(self, step: int, block: str) -> float:
        """Of the block's work that was done at the step: 0 reused, 1 computed, more where later steps were too."""
        return sum(asked.tokens * asked.calls for asked in self.asked[step] if block in asked.computed)

    def spent(self, step: int) -> float:
        """Share of a full evaluation at a step: by MACs where they are known, else by number of blocks."""
        weights = dict.fromkeys(self.blocks, 1.0) if self.macs is None else self.macs.blocks
        total = sum(weights.values()) + (0.0 if self.macs is None else self.macs.rest)
        work = sum(weights[block] * self.share(step, block) for block in self.blocks)
        # What belongs to no block (the embedding of the time) runs with every call.
        rest = 0.0 if self.macs is None else self.macs.rest * len(self.asked[step])
        return (work + rest) / total

    @property
    def total(self) -> float:
        """Share of the work of full evaluations over all steps."""
        return sum(self.spent(step) for step in range(self.steps)) / max(self.steps, 1)

    def table(self) -> str:
        """Markdown: a row for each kind of step, what computed in it, and its cost."""
        unit = "blocks" if self.macs is None else "MACs"
        rows = [f"| steps | number | computed | share of {unit} |", "|---|---|---|---|"]
        for alike in self._alike():
            words = self._words(alike[0])
            rows.append(f"| {_spans(alike)} | {len(alike)} | {words} | {self.spent(alike[0]):.3f} |")
        cost = f"{self.total:.3f}"
        if self.macs is not None:
            full = self.macs.total * self.steps
            cost += f" ({self.total * full / 1e9:.4g} of {full / 1e9:.4g} GMACs)"
        return "\n".join([*rows, f"| all | {self.steps} | | {cost} |"])

    def _alike(self) -> list[list[int]]:
        """Steps that did the same, by their first."""
        found: dict[tuple[Asked, ...], list[int]] = {}
        for step, asked in enumerate(self.asked):
            found.setdefault(asked, []).append(step)
        return list(found.values())

    def _words(self, step: int) -> str:
        """What computed at a step: everything, or from which block to which."""
        whole = [asked for asked in self.asked[step] if asked.tokens == 1 and asked.calls == 1]
        parts = [self._names({name for asked in whole for name in asked.computed})] if whole else []
        for asked in self.asked[step]:
            if asked in whole or not asked.computed:
                continue
            words = self._names(set(asked.computed))
            words += f" on {asked.tokens:.0%} of the tokens" if asked.tokens < 1 else ""
            parts.append(words + (f" for {asked.calls} steps at once" if asked.calls > 1 else ""))
        return "; ".join(part for part in parts if part) or "nothing"

    def _names(self, computed: set[str]) -> str:
        if computed.issuperset(self.blocks):
            return "everything"
        places = [place for place, block in enumerate(self.blocks) if block in computed]
        return _spans(places, self.blocks)

    def draw(self, path: Path) -> None:
        """Write a picture, steps across and blocks downwards: dark computed, light reused."""
        shares = [[min(self.share(step, block), 1.0) for step in range(self.steps)] for block in self.blocks]
        tall = 0.14 * len(self.blocks)
        figure = new_figure(max(5.0, 0.16 * self.steps + 2.5), max(3.0, tall + 1.6))
        above, below = figure.subplots(2, 1, height_ratios=[1, max(2.0, tall)], sharex=True)
        above.bar(range(self.steps), [self.spent(step) for step in range(self.steps)], width=0.9, color="#33638d")
        above.axhline(self.total, color="#c0392b", linewidth=1)
        above.set_ylabel("blocks" if self.macs is None else "MACs")
        above.set_title(f"{self.total:.0%} of the work of full evaluations", fontsize=10)
        below.imshow(shares, aspect="auto", cmap="Blues", vmin=-0.15, vmax=1.0, interpolation="nearest")
        below.set_yticks(range(len(self.blocks)), self.blocks, fontsize=6)
        below.set_xlabel("step (dark: computed, light: reused)")
        save_figure(figure, path)


def _spans(numbers: Sequence[int], names: Sequence[str] | None = None, most: int = 4) -> str:
    """Rising numbers, or what they name, with neighbours joined: "1 to 2, 4 to 5, ...", so many spans at most."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    ends = [[str(number) if names is None else names[number] for number in (span[0], span[-1])] for span in spans]
    found = [first if first == last else f"{first} to {last}" for first, last in ends]
    return ", ".join([*found[: most - 1], "...", found[-1]] if len(found) > most else found)
