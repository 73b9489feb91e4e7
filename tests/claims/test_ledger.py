"""The ledger itself: protocols are fair and complete, results match the pages that show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from suffuse.base.errors import UsageError
from suffuse.claims.arms import recipe_of
from suffuse.claims.etsdm.changes import CHANGES
from suffuse.claims.ledger import CLAIMS, find_claims
from suffuse.claims.protocol import Arm, Claim, Tier
from suffuse.claims.result import LEDGER, result_file, status
from suffuse.claims.tables import filled
from suffuse.training.recipe_files import load_recipe
from suffuse.training.run import check_recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md")})
EXPERIMENTS = [(claim, tier) for claim in CLAIMS for tier in claim.experiments]
every_experiment = pytest.mark.parametrize(
    ("claim", "tier"), EXPERIMENTS, ids=[f"{claim.key}-{tier}" for claim, tier in EXPERIMENTS]
)


@every_experiment
def test_arms_have_equal_budgets_and_parts_that_go_together(claim: Claim, tier: Tier) -> None:
    experiment = claim.experiments[tier]
    budgets = set()
    for arm in experiment.arms:
        if isinstance(arm, Arm):
            recipe = recipe_of(experiment, arm, 0)
            check_recipe(recipe)
            if arm.equal:
                budgets.add((recipe.training.steps, recipe.training.batch, recipe.data.kind))
            assert arm.equal or arm.note, "an arm of another budget says what it costs"
    assert len(budgets) <= 1


@every_experiment
def test_a_claim_is_decided_by_several_seeds_where_it_is_cheap(claim: Claim, tier: Tier) -> None:
    if tier in ("small", "long"):
        experiment = claim.experiments[tier]
        assert min(len(experiment.seeds_of(arm)) for arm in experiment.arms) >= 3


def test_claims_are_found_by_key_technique_and_all() -> None:
    assert find_claims("all") == CLAIMS
    assert {claim.technique for claim in find_claims("etsdm")} == {"etsdm"}
    assert {claim.key.split("-")[0] for claim in find_claims("ict")} == {"ict"}
    assert len(find_claims("ict")) > 1
    assert [claim.key for claim in find_claims("etsdm-price")] == ["etsdm-price"]
    with pytest.raises(UsageError, match="claim 'etsdm-prize' does not exist; did you mean 'etsdm-price'"):
        find_claims("etsdm-prize")


@pytest.mark.parametrize("name", ["remap", "penalty", "straight", "min-snr", "p2", "v", "x0", "score", "edm"])
def test_arms_of_the_comparison_are_the_recipes_of_that_name(name: str) -> None:
    recipe, arm = load_recipe(f"digits-{name}"), load_recipe("digits-ddpm", CHANGES[name])
    assert recipe.replace(about="", technique="") == arm.replace(about="", technique="")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_show_what_the_results_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "@@" not in text, "a place that nobody filled"
    assert filled(text) == text, "run `make ledger`"


def test_every_result_belongs_to_a_claim_and_still_counts() -> None:
    known = {result_file(LEDGER, claim, tier): (claim, tier) for claim, tier in EXPERIMENTS}
    for path in LEDGER.glob("*.json"):
        assert path in known, f"{path.name} belongs to no claim"
        found = status(*known[path])
        assert not found.void, f"{path.name} is void: its protocol has changed; run it again or remove it"
        recorded = [row["verdict"] for row in (found.result or {})["criteria"]]
        assert recorded == [finding.verdict for finding in found.findings]
