"""Tables of the ledger in Markdown, made from results alone; and pages that hold them between markers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from suffuse.base.errors import unknown_name
from suffuse.base.techniques import TECHNIQUES
from suffuse.claims.ledger import find_claims
from suffuse.claims.protocol import TIERS, Claim, Experiment, Values
from suffuse.claims.result import LEDGER, Status, status, tiers_of
from suffuse.claims.statistics import Interval, mean_interval

__all__ = ["filled", "overview", "places", "report", "summary", "values_table", "verdicts"]

_ROOT = Path(__file__).parents[3]  # of a checkout, which pages are in
_BLOCK = re.compile(r"(<!-- ledger:([a-z0-9-]+):([a-z]+) -->\n).*?(<!-- /ledger -->)", re.DOTALL)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _shown(interval: Interval) -> str:
    """Mean and half of the interval."""
    half = interval.high - interval.estimate
    if interval.seeds < 2 or half == 0:
        return _number(interval.estimate)
    return f"{_number(interval.estimate)} ± {half:.2g}"


def values_table(experiment: Experiment, values: Values) -> str:
    """Arms down, values across: means over seeds with half of their 95 % interval."""
    measured = {name for rows in values.values() for row in rows.values() for name in row}
    columns = [name for name in experiment.columns or _named(experiment) if name in measured]
    lines = [f"| arm | seeds | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for arm in experiment.arms:
        rows = values[arm.name]
        cells = []
        for name in columns:
            column = [row[name] for _, row in sorted(rows.items()) if name in row]
            cells.append(_shown(mean_interval(column)) if column else "")
        note = f" ({arm.note})" if arm.note else ""
        lines.append(f"| {arm.name}{note} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _named(experiment: Experiment) -> tuple[str, ...]:
    """Values that the criteria speak of, in their order."""
    values = [value for criterion in experiment.criteria for value in (criterion.value, criterion.over_value)]
    return tuple(dict.fromkeys(value for value in values if value is not None))


def verdicts(found: Status) -> str:
    """Criteria, estimates and verdicts."""
    lines = ["| criterion | found (95 %) | verdict |", "|---|---|---|"]
    for finding in found.findings:
        span = finding.interval
        ends = f" ({_number(span.low)} to {_number(span.high)})" if span.seeds > 1 and span.low != span.high else ""
        lines.append(f"| {finding.criterion.text} | {_number(span.estimate)}{ends} | {finding.verdict} |")
    return "\n".join(lines)


def report(found: Status) -> str:
    """All that the ledger holds of a claim in a tier: state, verdicts, values, and what they were measured with."""
    title = f"**{found.claim.key}, {found.tier}: {found.words}.** {found.claim.statement}"
    if found.result is None or found.void:
        return f"{title}\n\nThere are no figures."
    run, experiment = found.result["run"], found.claim.experiments[found.tier]
    told = {name: " and ".join(values) for name, values in run.items()}
    made = (
        f"{told['date']}, commit {told['commit']}, {told['hardware']}, threads {told['threads']}, "
        f"torch {told['torch']}, suffuse {told['suffuse']}"
        + "".join(f", {name} {told[name]}" for name in experiment.packages)
        + "."
    )
    floors = [f"{floor:.2g} for {count}" for count, floor in found.result["floors"].items()]
    floor = [f"Real images score, by count: {', '.join(floors)}."] if floors else []
    earlier = [
        f"Another protocol, of {' and '.join(row['date'])}, found: {'; '.join(row['found'])}."
        for row in found.result.get("earlier", [])
    ]
    stale = [f"Stale, because recipe or source have changed since: {', '.join(found.stale)}."] if found.stale else []
    if found.rechecked:
        again = found.result["rechecked"]
        when, commit = (" and ".join(again["run"][name]) for name in ("date", "commit"))
        stale = [
            f"The source has changed since. Rechecked {when} at commit {commit}: one seed of every arm was run again, "
            f"and all {again['values']} values came out as recorded."
        ]
    notes = list(experiment.notes)
    return "\n\n".join(
        [title, verdicts(found), values_table(experiment, found.values), *floor, *stale, *notes, *earlier, made]
    )


def overview(claims: Sequence[Claim], folder: Path = LEDGER) -> str:
    """A row a claim: what is said, by whom, and its state in each tier."""
    tiers = tiers_of(claims)
    lines = [f"| claim | says | {' | '.join(tiers)} |", "|---|---|" + "---|" * len(tiers)]
    for claim in claims:
        states = (status(claim, tier, folder).words if tier in claim.experiments else "" for tier in tiers)
        lines.append(f"| `{claim.key}`: {claim.statement} | {claim.by} | {' | '.join(states)} |")
    return "\n".join(lines)


def summary(claims: Sequence[Claim], folder: Path = LEDGER) -> str:
    """A row a technique: how many of its claims are in which state and stale, by tier. Links hold at the root."""
    tiers = tiers_of(claims)
    lines = [f"| technique | claims | {' | '.join(tiers)} |", "|---|---|" + "---|" * len(tiers)]
    for key in dict.fromkeys(claim.technique for claim in claims):
        mine = [claim for claim in claims if claim.technique == key]
        cells = []
        for tier in tiers:
            found = [status(claim, tier, folder) for claim in mine if tier in claim.experiments]
            states = Counter(one.state for one in found)
            told = ", ".join(f"{count} {state}" for state, count in states.most_common())
            stale = sum(bool(one.stale) for one in found)
            cells.append(f"{told} ({stale} stale)" if stale else told)
        technique = TECHNIQUES[key]
        lines.append(f"| [{technique.title}]({technique.page}) | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def places(key: str) -> str:
    """Where a technique's code, recipes, claims and tests are. Links hold for pages in docs/techniques."""
    technique = TECHNIQUES[key]

    def module(name: str) -> str:
        path = f"src/{name.replace('.', '/')}"
        return f"[`{name}`](../../{path if (_ROOT / path).is_dir() else f'{path}.py'})"

    recipes = ", ".join(f"`{name}`" for name in technique.recipes) or f"none, {technique.no_recipe}"
    return (
        f"Code: {module(technique.module)}. Claims: {module(technique.claims)}, `suffuse verify {key}`. "
        f"Tests: [`{technique.test}`](../../{technique.test}). Recipes: {recipes}."
    )


def filled(text: str, folder: Path = LEDGER) -> str:
    """A page with every block `<!-- ledger:NAME:WHAT --> ... <!-- /ledger -->` made anew from the results.

    NAME is a claim, a technique or `all`; WHAT is a tier, whose report is shown, `overview` (a row a claim),
    `summary` (a row a technique), or `places` (where a technique's code, recipes, claims and tests are).

    Raises:
        UsageError: A block names a claim or a tier that does not exist.
    """

    def made(match: re.Match[str]) -> str:
        name, what = match[2], match[3]
        claims = find_claims(name)
        if what == "overview":
            body = overview(claims, folder)
        elif what == "summary":
            body = summary(claims, folder)
        elif what == "places":
            body = places(name)
        elif what in TIERS:
            tiers = [(claim, tier) for claim in claims for tier in claim.experiments if tier == what]
            body = "\n\n".join(report(status(claim, tier, folder)) for claim, tier in tiers)
        else:
            raise unknown_name("ledger block", what, ("overview", "places", "summary", *TIERS))
        return f"{match[1]}{body}\n{match[4]}"

    return _BLOCK.sub(made, text)
