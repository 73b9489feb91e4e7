"""The words in which a claim is written: arms, measures, criteria, seeds, tiers. Plain data, which can be hashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from pydantic import Field, model_validator

from suffuse.base.errors import RunError
from suffuse.base.part import Part
from suffuse.claims.exact import Exact
from suffuse.claims.fingerprint import digest, minimal
from suffuse.claims.measures import Measure
from suffuse.claims.statistics import Interval, mean_interval, ratio_interval

__all__ = ["TIERS", "Arm", "Claim", "Criterion", "ExactArm", "Experiment", "Finding", "Plot", "Tier", "Values"]

Tier = Literal["small", "long", "gpu", "full"]
TIERS: tuple[Tier, ...] = get_args(Tier)

Values = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Arm -> seed -> name of a value -> the value."""


class Arm(Part):
    """What is trained: a recipe with overrides.

    Attributes:
        name: In tables and plots.
        recipe: Its name in the package.
        overrides: As on the command line, after those that all arms of the experiment share; {after} stands for the
            folder of the run that it builds on.
        after: Name of the arm that it builds on, with the same seed: a teacher, or a first stage.
        seeds: Its own seeds; the experiment's when None.
        equal: Whether its budget is the experiment's; False for an arm that says in `note` what it costs.
        note: What a reader must know of it.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    after: str | None = None
    seeds: tuple[int, ...] | None = None
    equal: bool = True
    note: str = ""


class ExactArm(Part):
    """What is computed on a density that is known exactly, without training.

    Attributes:
        name: In tables and plots.
        exact: The computation.
        seeds: Its own seeds; the experiment's when None.
        note: What a reader must know of it.
    """

    name: str
    exact: Exact
    seeds: tuple[int, ...] | None = None
    note: str = ""


class Criterion(Part):
    """When a claim holds: a limit on a value, on its ratio to another arm's, or to another value of the same arm.

    Ratios are paired by seed. It holds when the whole confidence interval keeps the limits, fails when none of it does,
    and stays open in between.

    Attributes:
        value: Which value.
        arm: Of which arm.
        over: Arm whose value divides; the arm itself when only `over_value` is given.
        over_value: Which value of that arm; the same one when None.
        at_least, at_most: The limits, at least one of them.
    """

    value: str
    arm: str
    over: str | None = None
    over_value: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _limited(self) -> Criterion:
        if self.at_least is None and self.at_most is None:
            raise ValueError("a criterion needs at_least or at_most")
        return self

    @property
    def text(self) -> str:
        """In words."""
        subject = f"{self.value} of {self.arm}"
        if self.over is not None or self.over_value is not None:
            other = self.over_value or self.value
            subject += f" over {other}" if self.over_value else " over that"
            subject += f" of {self.over or self.arm}"
        if self.at_least is not None and self.at_most is not None:
            return f"{subject} within {self.at_least:g} to {self.at_most:g}"
        if self.at_least is not None:
            return f"{subject} at least {self.at_least:g}"
        return f"{subject} at most {self.at_most:g}"

    def find(self, values: Values) -> Finding:
        """Hold the criterion against measured values.

        Raises:
            RunError: An arm has no such value.
        """
        mine = _column(values, self.arm, self.value)
        if self.over is None and self.over_value is None:
            interval = mean_interval([value for _, value in sorted(mine.items())])
        else:
            other = _column(values, self.over or self.arm, self.over_value or self.value)
            shared = sorted(mine.keys() & other.keys())
            interval = ratio_interval([mine[seed] for seed in shared], [other[seed] for seed in shared])
        return Finding(self, interval, self._verdict(interval))

    def _verdict(self, found: Interval) -> Literal["holds", "fails", "open"]:
        least = -float("inf") if self.at_least is None else self.at_least
        most = float("inf") if self.at_most is None else self.at_most
        if least <= found.low and found.high <= most:
            return "holds"
        return "fails" if found.high < least or found.low > most else "open"


def _column(values: Values, arm: str, value: str) -> dict[int, float]:
    rows = values.get(arm, {})
    missing = [seed for seed, row in rows.items() if value not in row]
    if not rows or missing:
        raise RunError(f"arm {arm!r} has no value {value!r}; the claim's measures do not give what its criteria ask")
    return {seed: row[value] for seed, row in rows.items()}


@dataclass(frozen=True)
class Finding:
    """A criterion and what was found.

    Attributes:
        criterion: Fixed before the run.
        interval: Of the value or ratio, over the seeds.
        verdict: Whether it holds.
    """

    criterion: Criterion
    interval: Interval
    verdict: Literal["holds", "fails", "open"]


class Plot(Part):
    """A picture of some values. Values named `name@x` are points of a curve `name` over x; others are drawn as bars.

    Attributes:
        name: Of the file.
        values: Names of the values, or of the curves.
        title, xlabel, ylabel: On the axes.
        log: Axes in logarithmic scale.
        arms: Which arms; all when empty.
    """

    name: str
    values: tuple[str, ...]
    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    log: Literal["", "x", "y", "xy"] = ""
    arms: tuple[str, ...] = ()


class Experiment(Part):
    """What one tier of a claim does.

    Attributes:
        arms: What is compared, at equal budget.
        shared: Overrides of all trained arms: the budget stands here.
        measures: What is measured on every trained arm.
        criteria: When the claim holds; fixed before the run.
        seeds: Of all arms that have none of their own.
        columns: Values shown in the table; all that criteria and plots name when empty.
        plots: Pictures.
        data: File that the recipes' data are read from; None when the package brings them.
        packages: Optional packages without which it cannot be run; their versions are recorded.
        notes: What was tried, and what a reader must know; not part of the protocol.
    """

    arms: tuple[Arm | ExactArm, ...] = Field(min_length=1)
    shared: tuple[str, ...] = ()
    measures: tuple[Measure, ...] = ()
    criteria: tuple[Criterion, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = (0, 1, 2)
    columns: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    data: str | None = None
    packages: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"arms {names} must have different names")
        for place, arm in enumerate(self.arms):
            after = arm.after if isinstance(arm, Arm) else None
            if after is not None and after not in [other.name for other in self.arms[:place] if isinstance(other, Arm)]:
                raise ValueError(f"arm {arm.name!r} builds on {after!r}, which must be a trained arm before it")
        for criterion in self.criteria:
            for name in (criterion.arm, criterion.over):
                if name is not None and name not in names:
                    raise ValueError(f"a criterion names the arm {name!r}, but there are {names}")
        return self

    def seeds_of(self, arm: Arm | ExactArm) -> tuple[int, ...]:
        """An arm's seeds."""
        return self.seeds if arm.seeds is None else arm.seeds

    def overrides_of(self, arm: Arm) -> tuple[str, ...]:
        """All overrides of a trained arm; its own come last and win."""
        return (*self.shared, *arm.overrides)

    def before(self, arm: Arm) -> Arm | None:
        """The arm that an arm builds on."""
        return next((other for other in self.arms if isinstance(other, Arm) and other.name == arm.after), None)

    @property
    def protocol(self) -> str:
        """Hash of all that was fixed before the run: a result of another protocol is void."""
        fixed = ("shared", "measures", "criteria", "seeds", "data")
        arms = [arm.replace(note="", equal=True) if isinstance(arm, Arm) else arm.replace(note="") for arm in self.arms]
        return digest({"arms": minimal(arms), **{name: minimal(getattr(self, name)) for name in fixed}})


@dataclass(frozen=True)
class Claim:
    """What a paper, a reviewer or we say, and the experiments that check it.

    Attributes:
        key: Name of the claim, beginning with the technique's.
        technique: Key in the table of techniques.
        paper: Key in the table of papers.
        by: Who says so.
        statement: What is said.
        figure: The figure that comes with it, and how sure we are of it.
        experiments: Tier -> what is done.
    """

    key: str
    technique: str
    paper: str
    by: Literal["paper", "reviewers", "suffuse"]
    statement: str
    figure: str
    experiments: Mapping[Tier, Experiment] = field(default_factory=dict)

    def state_of(self, findings: Sequence[Finding]) -> Literal["reproduced", "not reproduced", "mixed", "undecided"]:
        """Computed from verdicts alone.

        Reproduced when all criteria hold, undecided when all are open, not reproduced when none holds and some fail,
        mixed otherwise.
        """
        verdicts = [finding.verdict for finding in findings]
        if "holds" in verdicts:
            return "reproduced" if set(verdicts) == {"holds"} else "mixed"
        return "not reproduced" if "fails" in verdicts else "undecided"
