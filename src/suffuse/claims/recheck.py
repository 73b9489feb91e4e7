"""Recheck: one seed of every arm run again, to show that a change of the source left a result's figures as they were.

Source changes often (a new option, a renamed helper), and most changes alter no figure; running every claim again at
each of them would be the end of the ledger. A recheck runs every arm once under today's source and compares all its
values with the recorded ones. If all are equal the result counts again, and says that it was rechecked; if one is not,
it stays stale, and the experiment must be run anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from suffuse.base import files
from suffuse.base.errors import UsageError
from suffuse.claims.protocol import Claim, Experiment, Tier
from suffuse.claims.result import identities, read, result_file, status
from suffuse.claims.verify import Checked, Settings, verify

__all__ = ["Rechecked", "recheck"]

_TOLERANCE = 1e-6  # relative: results are written with seven digits
_TIMED = "seconds"  # values that begin so are measured by the clock


@dataclass(frozen=True)
class Rechecked:
    """What a recheck of a result found.

    Attributes:
        claim, tier: Of what.
        compared: How many values.
        differing: Those that are not what was recorded, in words.
        file: The result, which says so now when nothing differs.
    """

    claim: Claim
    tier: Tier
    compared: int
    differing: tuple[str, ...]
    file: Path

    @property
    def text(self) -> str:
        """In a sentence."""
        if not self.differing:
            return f"{self.claim.key}, {self.tier}: all {self.compared} values of one seed an arm are as recorded"
        shown = "; ".join(self.differing[:3]) + ("; ..." if len(self.differing) > 3 else "")
        return (
            f"{self.claim.key}, {self.tier}: {len(self.differing)} of {self.compared} values differ ({shown}); it "
            "stays stale, run it again without --recheck"
        )


def recheck(
    claims: Sequence[Claim],
    tier: Tier,
    settings: Settings,
    folder: Path,
    *,
    note: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> list[Rechecked]:
    """Run one seed of every arm of recorded results again, and mark those whose figures come out the same.

    Args:
        claims: Those without a result in this tier, or with one that is void, are left out.
        tier: Which experiments.
        settings: Where and how.
        folder: Of the results.
        note, progress: As for `verify`.

    Raises:
        UsageError: There is no result to recheck.
    """
    known = [claim for claim in claims if tier in claim.experiments and result_file(folder, claim, tier).is_file()]
    known = [claim for claim in known if not status(claim, tier, folder).void]
    if not known:
        raise UsageError(f"there is no result in tier {tier!r} whose protocol still holds; run `suffuse verify` first")
    reduced = [replace(claim, experiments={tier: _once(claim.experiments[tier])}) for claim in known]
    checked = verify(reduced, tier, settings, note=note, progress=progress)
    return [_compared(claim, found, folder) for claim, found in zip(known, checked, strict=True)]


def _once(experiment: Experiment) -> Experiment:
    """Every arm with its first seed."""
    arms = tuple(arm.replace(seeds=experiment.seeds_of(arm)[:1]) for arm in experiment.arms)
    return experiment.replace(arms=arms)


def _compared(claim: Claim, found: Checked, folder: Path) -> Rechecked:
    path = result_file(folder, claim, found.tier)
    data = read(path)
    differing, count = [], 0
    for arm, rows in found.values.items():
        for seed, row in rows.items():
            recorded = data["values"][arm][str(seed)]
            for name in sorted(recorded.keys() | row.keys()):
                if name.startswith(_TIMED):
                    continue
                count += 1
                old, new = recorded.get(name), row.get(name)
                if old is None or new is None or abs(new - old) > _TOLERANCE * max(abs(old), abs(new)):
                    differing.append(f"{name} of {arm}: {new} instead of {old}")
    if not differing:
        made = {name: list(values) for name, values in found.made.items()}
        data["rechecked"] = {"run": made, "values": count, "identities": identities(claim.experiments[found.tier])}
        files.write_json(path, data)
    return Rechecked(claim, found.tier, count, tuple(differing), path)
