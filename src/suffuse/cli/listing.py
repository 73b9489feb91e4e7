"""suffuse list: what there is."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from suffuse.cli.console import say

__all__ = ["What", "list_command"]


class What(StrEnum):
    """What can be listed."""

    techniques = "techniques"
    recipes = "recipes"
    solvers = "solvers"
    plans = "plans"
    parts = "parts"
    data = "data"
    claims = "claims"
    conflicts = "conflicts"


def list_command(
    what: Annotated[What, typer.Argument(help="What to list.")] = What.recipes,
) -> None:
    """List recipes, techniques, solvers, plans, data, claims and their state, all parts by joint, or what conflicts."""
    rows = _ROWS[what]()
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        say(f"{name:<{width}}  {text}".rstrip())


def _recipes() -> list[tuple[str, str]]:
    from suffuse.training.recipe_files import list_recipes, read_recipe_file

    return [(name, str(read_recipe_file(name).get("about", ""))) for name in list_recipes()]


def _techniques() -> list[tuple[str, str]]:
    from suffuse.base.techniques import TECHNIQUES

    return [(key, f"{item.title} ({item.module})") for key, item in TECHNIQUES.items()]


def _of(*joints: str) -> list[tuple[str, str]]:
    from suffuse.training.joints import JOINTS

    rows = []
    for joint in joints or JOINTS:
        for kind, part in JOINTS[joint].parts.items():
            name = kind if len(joints) == 1 else f"{joint} {kind}"
            rows.append((name, (part.__doc__ or "").strip().splitlines()[0]))
    return rows


def _claims() -> list[tuple[str, str]]:
    from suffuse.claims.ledger import CLAIMS
    from suffuse.claims.result import status

    rows = []
    for claim in CLAIMS:
        states = (f"{tier}: {status(claim, tier).words}" for tier in claim.experiments)
        rows.append((claim.key, f"{'; '.join(states)}. {claim.statement}"))
    return rows


def _conflicts() -> list[tuple[str, str]]:
    from suffuse.training.conflicts import conflicts

    return [(f"{path}: {part}", why) for path, part, why in conflicts()]


_ROWS: dict[What, Callable[[], list[tuple[str, str]]]] = {
    What.recipes: _recipes,
    What.techniques: _techniques,
    What.solvers: lambda: _of("solver"),
    What.plans: lambda: _of("plan"),
    What.data: lambda: _of("data"),
    What.parts: lambda: _of(),
    What.claims: _claims,
    What.conflicts: _conflicts,
}
