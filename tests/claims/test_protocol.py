"""Criteria, experiments and claims: verdicts, words, and what a protocol is."""

from __future__ import annotations

import pytest

from suffuse.base.errors import RunError, UsageError
from suffuse.base.part import parse
from suffuse.claims.protocol import Arm, Claim, Criterion, Experiment
from suffuse.claims.statistics import Interval

VALUES = {
    "a": {0: {"d@5": 1.0, "k": 4.0}, 1: {"d@5": 1.1, "k": 4.4}, 2: {"d@5": 0.9, "k": 3.8}},
    "b": {0: {"d@5": 2.0, "k": 1.0}, 1: {"d@5": 2.3, "k": 1.1}, 2: {"d@5": 1.7, "k": 0.95}},
}
ARMS = (Arm(name="a", recipe="digits-ddpm"), Arm(name="b", recipe="digits-etsdm"))


def verdict(**fields: object) -> str:
    return Criterion.model_validate({"value": "d@5", "arm": "a", **fields}).find(VALUES).verdict


def test_a_criterion_holds_fails_or_stays_open() -> None:
    assert verdict(over="b", at_most=0.7) == "holds"
    assert verdict(over="b", at_least=0.7) == "fails"
    assert verdict(over="b", at_most=0.5) == "open"
    assert verdict(over="b", at_least=0.3, at_most=0.8) == "holds"
    assert verdict(at_most=2) == "holds"
    assert verdict(value="k", over_value="d@5", at_least=2) == "holds"


def test_seeds_are_paired_and_those_of_one_arm_alone_are_left_out() -> None:
    more = {**VALUES, "a": {**VALUES["a"], 7: {"d@5": 100.0, "k": 1.0}}}
    assert Criterion(value="d@5", arm="a", over="b", at_most=1).find(more).interval.seeds == 3


def test_one_seed_decides_nothing() -> None:
    single = {arm: {0: rows[0]} for arm, rows in VALUES.items()}
    assert Criterion(value="d@5", arm="a", over="b", at_most=1).find(single).verdict == "open"


def test_it_says_itself_in_words() -> None:
    ratio = Criterion(value="d@5", arm="a", over="b", at_most=0.67)
    assert ratio.text == "d@5 of a over that of b at most 0.67"
    assert Criterion(value="k", arm="a", over_value="d@5", at_least=2).text == "k of a over d@5 of a at least 2"
    assert Criterion(value="k", arm="a", at_least=1, at_most=2).text == "k of a within 1 to 2"


def test_a_missing_value_is_named() -> None:
    with pytest.raises(RunError, match="arm 'a' has no value 'q'"):
        Criterion(value="q", arm="a", at_most=1).find(VALUES)


def test_mistakes_of_a_protocol_are_refused() -> None:
    with pytest.raises(UsageError, match="at_least or at_most"):
        parse(Criterion, {"value": "d", "arm": "a"})
    limit = Criterion(value="d", arm="c", at_most=1)
    with pytest.raises(UsageError, match="names the arm 'c'"):
        parse(Experiment, {"arms": ARMS, "criteria": (limit,)})
    with pytest.raises(UsageError, match="different names"):
        parse(Experiment, {"arms": (ARMS[0], ARMS[0]), "criteria": (limit.replace(arm="a"),)})


def test_the_protocol_is_all_that_was_fixed_before_the_run() -> None:
    plain = Experiment(arms=ARMS, criteria=(Criterion(value="d", arm="a", at_most=1),))
    noted = (ARMS[0].replace(note="slow", equal=False), ARMS[1])
    assert plain.replace(notes=("tried twice",), columns=("d",), arms=noted).protocol == plain.protocol
    for change in (
        {"criteria": (Criterion(value="d", arm="a", at_most=2),)},
        {"seeds": (0, 1)},
        {"shared": ("steps=3",)},
        {"arms": ARMS[:1]},
    ):
        assert plain.replace(**change).protocol != plain.protocol


def test_the_state_is_computed_from_the_verdicts() -> None:
    claim = Claim("x", "etsdm", "yang2024etsdm", "paper", "It is so.", "none")
    interval, limit = Interval(1, 1, 1, 3), Criterion(value="d", arm="a", at_most=1)

    def state(*verdicts: str) -> str:
        from suffuse.claims.protocol import Finding

        return claim.state_of([Finding(limit, interval, word) for word in verdicts])  # type: ignore[arg-type]

    assert state("holds", "holds") == "reproduced"
    assert state("holds", "open") == "mixed"
    assert state("fails", "open") == "not reproduced"
    assert state("open", "open") == "undecided"
    assert state("open", "holds") == "mixed"
