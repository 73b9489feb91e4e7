"""The table of techniques: under one key, where each one's code, recipes, tests and page are."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TECHNIQUES", "Technique"]


@dataclass(frozen=True)
class Technique:
    """A technique's places.

    Attributes:
        title: Its name.
        papers: Keys into the table of sources.
        module: Where the code is.
        recipes: Which recipes use it.
        claims: Where its claims are.
        test: Its test file.
        page: Its page.
    """

    title: str
    papers: tuple[str, ...]
    module: str
    recipes: tuple[str, ...]
    claims: str
    test: str
    page: str


TECHNIQUES: dict[str, Technique] = {
    "etsdm": Technique(
        title="E-TSDM: shared timesteps near clean data",
        papers=("yang2024etsdm",),
        module="suffuse.process.time_condition",
        recipes=(
            "digits-etsdm",
            "mnist14-etsdm",
            "cifar10-etsdm",
            "digits-sr-etsdm",
            # The alternatives that it is compared with.
            "digits-edm",
            "digits-min-snr",
            "digits-p2",
            "digits-penalty",
            "digits-remap",
            "digits-score",
            "digits-straight",
            "digits-v",
            "digits-x0",
            "digits-zero-snr",
        ),
        claims="suffuse.claims.etsdm",
        test="tests/process/test_time_condition.py",
        page="docs/techniques/etsdm.md",
    ),
}
