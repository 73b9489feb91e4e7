"""Results: what was found, as JSON that is read again, and the state that is computed from it and never written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from suffuse.base import files
from suffuse.base.errors import RunError
from suffuse.claims.arms import exact_identity, measure_identity, model_identity, recipe_of
from suffuse.claims.measures import Reconstruction
from suffuse.claims.protocol import TIERS, Arm, Claim, ExactArm, Experiment, Finding, Tier, Values
from suffuse.claims.verify import Checked
from suffuse.training.recipe import Recipe

__all__ = ["LEDGER", "Status", "dump", "identities", "read", "result_file", "status", "tiers_of", "write"]

LEDGER = Path(__file__).parent / "results"
"""The results that come with the package."""

_VERSION = 1
_DIGITS = 7  # significant: more than any figure deserves, and files stay readable
State = Literal["reproduced", "not reproduced", "mixed", "undecided", "not run"]


def result_file(folder: Path, claim: Claim, tier: Tier) -> Path:
    """Where a result is kept."""
    return folder / f"{claim.key}.{tier}.json"


def _identity(experiment: Experiment, arm: Arm | ExactArm) -> dict[str, Any]:  # Any: JSON values
    """Hashes of an arm's recipe, or computation, and of the source that makes its figures."""
    if isinstance(arm, ExactArm):
        return {"exact": exact_identity(arm.exact)}
    recipe = recipe_of(experiment, arm, experiment.seeds_of(arm)[0])
    wanted = experiment.measures if isinstance(recipe, Recipe) else (Reconstruction(),)
    measures = [measure_identity(measure)["source"] for measure in wanted]
    return {"model": model_identity(recipe), "measures": measures}


def identities(experiment: Experiment) -> dict[str, Any]:  # Any: JSON values
    """What makes each arm's figures today, by name."""
    return {arm.name: _identity(experiment, arm) for arm in experiment.arms}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _bounded(value: float) -> float | None:
    """JSON has no infinity: the interval of a single seed has no ends."""
    return _rounded(value) if math.isfinite(value) else None


def dump(checked: Checked) -> dict[str, Any]:  # Any: JSON values
    """A result as plain data."""
    claim, experiment = checked.claim, checked.experiment
    values = {
        arm: {str(seed): {name: _rounded(v) for name, v in row.items()} for seed, row in rows.items()}
        for arm, rows in checked.values.items()
    }
    found = [criterion.find(_values(values)) for criterion in experiment.criteria]
    return {
        "format_version": _VERSION,
        "claim": claim.key,
        "tier": checked.tier,
        "paper": claim.paper,
        "statement": claim.statement,
        "protocol": experiment.protocol,
        "criteria": [
            {
                "text": finding.criterion.text,
                "estimate": _rounded(finding.interval.estimate),
                "low": _bounded(finding.interval.low),
                "high": _bounded(finding.interval.high),
                "seeds": finding.interval.seeds,
                "verdict": finding.verdict,
            }
            for finding in found
        ],
        "arms": {arm.name: _told(experiment, arm, checked) for arm in experiment.arms},
        "values": values,
        "floors": {str(count): _rounded(floor) for count, floor in checked.floors.items()},
        "data": dict(checked.data),
        "run": {name: list(values) for name, values in checked.made.items()},
    }


def _told(experiment: Experiment, arm: Arm | ExactArm, checked: Checked) -> dict[str, Any]:  # Any: JSON values
    cost = {name: round(value, 1) for name, value in checked.costs.get(arm.name, {}).items()}
    if isinstance(arm, ExactArm):
        return {"exact": arm.exact.dump(), "identity": _identity(experiment, arm)}
    told = {"recipe": arm.recipe, "overrides": list(experiment.overrides_of(arm)), "cost": cost}
    return {**told, "identity": _identity(experiment, arm)}


def write(folder: Path, checked: Checked) -> Path:
    """Write a result into a folder; returns the file. What another protocol had found there stays on record."""
    files.make_folder(folder)
    path = result_file(folder, checked.claim, checked.tier)
    data = dump(checked)
    if path.is_file():
        old = read(path)
        data["earlier"] = old.get("earlier", [])
        if old["protocol"] != data["protocol"]:
            found = [f"{row['text']}: {row['verdict']}" for row in old["criteria"]]
            data["earlier"].append({"protocol": old["protocol"], "date": old["run"]["date"], "found": found})
    files.write_json(path, data)
    return path


def _values(plain: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[int, dict[str, float]]]:
    return {arm: {int(seed): dict(row) for seed, row in rows.items()} for arm, rows in plain.items()}


def read(path: Path) -> dict[str, Any]:  # Any: JSON values
    """Read a result.

    Raises:
        UsageError: There is none, or it is of a newer version.
        RunError: It is damaged.
    """
    data = files.read_json(path)
    files.check_version(data, path=path, newest=_VERSION)
    missing = [name for name in ("claim", "tier", "protocol", "values", "arms", "criteria", "run") if name not in data]
    if missing:
        raise RunError(f"{path} lacks {', '.join(missing)}; run the claim again to write it anew")
    return data


@dataclass(frozen=True)
class Status:
    """What the ledger says of a claim in a tier.

    Attributes:
        claim, tier: Of what.
        state: Computed from the recorded values and today's criteria; `not run` also when the result is void.
        void: The experiment is another than the recorded one: its figures do not count any more.
        stale: Arms whose recipe or source has changed since, and whose figures were not rechecked.
        rechecked: Whether figures count because one seed of every arm was run again under a changed source.
        findings: One a criterion; empty when it was not run.
        result: As it was read; None when there is none.
    """

    claim: Claim
    tier: Tier
    state: State
    void: bool = False
    stale: tuple[str, ...] = ()
    rechecked: bool = False
    findings: tuple[Finding, ...] = ()
    result: Mapping[str, Any] | None = None  # Any: JSON values

    @property
    def words(self) -> str:
        """The state in a few words, with what weakens it."""
        if self.void:
            return "void: the protocol has changed since"
        return f"{self.state} (stale)" if self.stale else self.state

    @property
    def values(self) -> Values:
        """The recorded values; empty when there are none."""
        return _values(self.result["values"]) if self.result else {}


def status(claim: Claim, tier: Tier, folder: Path = LEDGER) -> Status:
    """Read a claim's result and compute its state.

    Raises:
        RunError: The file is damaged.
    """
    path = result_file(folder, claim, tier)
    if tier not in claim.experiments or not path.is_file():
        return Status(claim, tier, "not run")
    data, experiment = read(path), claim.experiments[tier]
    if data["protocol"] != experiment.protocol:
        return Status(claim, tier, "not run", void=True, result=data)
    values = _values(data["values"])
    findings = tuple(criterion.find(values) for criterion in experiment.criteria)
    today, again = identities(experiment), data.get("rechecked", {}).get("identities", {})
    changed = [name for name, identity in today.items() if data["arms"][name]["identity"] != identity]
    stale = tuple(name for name in changed if again.get(name) != today[name])
    rechecked = bool(changed) and not stale
    return Status(claim, tier, claim.state_of(findings), False, stale, rechecked, findings, data)


def tiers_of(claims: Sequence[Claim]) -> tuple[Tier, ...]:
    """Tiers that any of the claims has, cheapest first."""
    return tuple(tier for tier in TIERS if any(tier in claim.experiments for claim in claims))
