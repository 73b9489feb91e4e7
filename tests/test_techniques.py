"""The table of techniques and the table of papers: every place that they name exists, and nothing is left out."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import suffuse
from suffuse.base.papers import PAPERS
from suffuse.base.techniques import TECHNIQUES
from suffuse.claims.ledger import CLAIMS
from suffuse.training.recipe_files import list_recipes, read_recipe_file

SOURCE = Path(suffuse.__file__).parent
ROOT = Path(__file__).parents[1]
HEADINGS = ["What it changes", "When it helps", "How to use it", "The maths", "What we measured"]
KEY = re.compile(r"\b[a-z]+(?:19|20)\d\d[a-z][a-z0-9]*\b")

every_technique = pytest.mark.parametrize("key", TECHNIQUES)


def cited(file: Path) -> set[str]:
    """Keys of papers in a module's docstrings and comments."""
    return set(KEY.findall(file.read_text()))


def cited_in(module: str) -> set[str]:
    """Keys of papers in a module, or in all modules of a family's package."""
    file = Path(importlib.import_module(module).__file__ or "")
    files = file.parent.glob("*.py") if file.name == "__init__.py" else [file]
    return {key for one in files for key in cited(one)}


@every_technique
def test_its_module_names_its_papers(key: str) -> None:
    entry = TECHNIQUES[key]
    assert entry.papers
    assert set(entry.papers) <= PAPERS.keys()
    assert set(entry.papers) <= cited_in(entry.module)


@every_technique
def test_its_recipes_say_so(key: str) -> None:
    entry = TECHNIQUES[key]
    assert bool(entry.recipes) != bool(entry.no_recipe), "recipes, or a reason why there are none"
    for name in entry.recipes:
        assert read_recipe_file(name).get("technique") == key


@every_technique
def test_only_what_is_chosen_after_training_has_no_recipe(key: str) -> None:
    entry = TECHNIQUES[key]
    assert not entry.no_recipe or entry.module.startswith(("suffuse.sampling.", "suffuse.acceleration."))


@every_technique
def test_its_claims_are_in_the_ledger(key: str) -> None:
    entry = TECHNIQUES[key]
    mine = importlib.import_module(entry.claims).CLAIMS
    assert mine
    assert {claim.technique for claim in mine} == {key}
    assert all(claim in CLAIMS for claim in mine)
    assert {claim.paper for claim in mine} <= PAPERS.keys()


@every_technique
def test_its_test_tests_its_module(key: str) -> None:
    entry = TECHNIQUES[key]
    test = ROOT / entry.test
    assert test.is_file()
    assert "def test_" in test.read_text()
    assert entry.test == f"tests/{'/'.join(entry.module.split('.')[1:-1])}/test_{entry.module.split('.')[-1]}.py"


@every_technique
def test_its_page_has_the_five_headings_and_names_paper_and_recipe(key: str) -> None:
    entry = TECHNIQUES[key]
    text = (ROOT / entry.page).read_text()
    lines = text.splitlines()
    assert lines[0] == f"# {entry.title}"
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == HEADINGS
    sections = re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]
    assert all(section.strip() for section in sections), "an empty section"
    assert f"<!-- ledger:{key}:places -->" in text, "where code, recipes, claims and tests are"
    # Where a technique has no recipe of its own, the page shows it at work on one of another's.
    assert any(name in text for name in entry.recipes or list_recipes())


def test_every_page_belongs_to_a_technique() -> None:
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "techniques").glob("*.md")}
    assert pages == {entry.page for entry in TECHNIQUES.values()}


def test_every_source_is_in_the_table_of_papers() -> None:
    missing = {
        f"{key} in {file.relative_to(SOURCE)}"
        for file in sorted(SOURCE.rglob("*.py"))
        for key in cited(file) - PAPERS.keys()
        if file.name != "papers.py"
    }
    assert not missing


def test_every_source_line_names_a_key() -> None:
    """`Source:` is followed by keys, not by prose that no bibliography can be made of."""
    loose = []
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                said = ast.get_docstring(node) or ""
                lines = re.findall(r"^(?:.*\s)?Sources?: (.*(?:\n.*)?)", said, re.MULTILINE)
                loose += [f"{file.name}: {line}" for line in lines if not KEY.search(line)]
    assert not loose


def test_every_paper_is_cited_and_keyed_by_its_year() -> None:
    everywhere = {key for file in SOURCE.rglob("*.py") if file.name != "papers.py" for key in cited(file)}
    assert not PAPERS.keys() - everywhere, "cited nowhere"
    for key, paper in PAPERS.items():
        assert str(paper.year) in key
        assert paper.line.endswith(".")
