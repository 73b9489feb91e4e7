"""Fingerprints: when two runs are the same, and when a recorded figure no longer speaks of the code that is here.

A figure depends on its recipe, its seed and the source that computes it. Of the source only what the recipe reaches
counts: the modules of the parts in use and what these import, within the packages that compute numbers. So a new
solver leaves old figures valid, and a change to a path makes all figures on that path stale. Comments, docstrings and
refusals (what raises an error for users, with the `if` that asks whether to) do not count: where there is a figure,
nothing was refused. What a measure names counts in any case.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import json
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import suffuse
from suffuse.base.part import Part

__all__ = ["closure", "digest", "minimal", "modules_of", "source_hash"]

_ROOT = Path(suffuse.__file__).parent
_PLANS = "suffuse.acceleration"
# What computes numbers. The rest (files, locks, logs, tables, the command line) cannot change a figure.
_NUMERIC = (
    "suffuse.base.randomness",
    "suffuse.base.conditions",
    "suffuse.base.batch",
    "suffuse.process",
    "suffuse.networks",
    "suffuse.models",
    "suffuse.sampling",
    _PLANS,
    "suffuse.objectives",
    "suffuse.data",
    "suffuse.metrics",
    "suffuse.training.trainer",
    "suffuse.training.ema",
    "suffuse.training.optimiser",
    "suffuse.training.radam",
    "suffuse.training.extractor",
    "suffuse.training.latents",
    "suffuse.training.measured",
    "suffuse.training.sample_conditions",
    "suffuse.tasks.generate",
    "suffuse.tasks.judge",
    "suffuse.tasks.reconstruct",
    "suffuse.tasks.time_profile",
    "suffuse.claims.exact",
    "suffuse.claims.judging",
    "suffuse.claims.measures",
    "suffuse.interop.scheduler_match",
    "suffuse.interop.scheduler_pairs",
)
# Of those packages: saving, loading, reading and reporting.
_PLUMBING = (
    "suffuse.networks.external",
    "suffuse.acceleration.none",
    "suffuse.models.pretrained",
    "suffuse.models.config",
    "suffuse.data.cache",
    "suffuse.data.hub",
    "suffuse.data.layout",
    "suffuse.data.report",
    "suffuse.data.sources",
    "suffuse.metrics.memorisation",
    "suffuse.metrics.ruler",
)


def digest(value: object) -> str:
    """Hash of plain data, 16 hexadecimal digits; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def minimal(value: object) -> Any:  # Any: JSON values
    """A part as plain data without the fields that are at their defaults: a new field leaves it as it was.

    A default that changes is seen in the source of its module; those of recipes, which are not numeric, are pinned in
    `arms`.
    """
    if isinstance(value, Part):
        return {
            name: minimal(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if name == "kind" or getattr(value, name) != field.get_default(call_default_factory=True)
        }
    if isinstance(value, dict):
        return {str(key): minimal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [minimal(item) for item in value]
    return value


def modules_of(*parts: object) -> set[str]:
    """Modules in which the parts, and the parts inside them, are defined."""
    found: set[str] = set()
    for part in parts:
        if isinstance(part, Part):
            found.add(type(part).__module__)
            found |= modules_of(*(getattr(part, name) for name in type(part).model_fields))
        elif isinstance(part, list | tuple):
            found |= modules_of(*part)
    return found


def _file(module: str) -> Path | None:
    """Source of a module of ours; None for names that are none."""
    place = _ROOT.parent.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


@functools.lru_cache(maxsize=512)
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _home(package: str, name: str) -> str | None:
    """The module that a name of a package comes from; None when the package itself makes it (a joint's table)."""
    if _file(f"{package}.{name}") is not None:
        return f"{package}.{name}"
    path = _file(package)
    if path is None or path.name != "__init__.py":
        return package
    for node in _tree(path).body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return _home(str(node.module), name)
    return None


def _imports(module: str) -> Iterator[str]:
    """Modules of ours that a module uses when it runs, wherever the import stands."""
    path = _file(module)
    if path is None:
        return
    for node in _running(_tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("suffuse"):
            homes = (_home(node.module, alias.name) for alias in node.names)
            yield from (home for home in homes if home is not None)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("suffuse"))


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _running(node)


def _counts(module: str) -> bool:
    def within(packages: Iterable[str]) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in packages)

    return within(_NUMERIC) and not within(_PLUMBING)


def closure(modules: Iterable[str], named: Iterable[str] = ()) -> tuple[str, ...]:
    """The modules that count among those given and all that they import, sorted; those `named` count in any case.

    Sampling imports plans, but without one they are not there: they count only where a part of theirs is in use.
    """
    found: set[str] = set()
    waiting = [*(module for module in modules if _counts(module)), *named]
    if any(map(_of_plans, waiting)):
        waiting.append(f"{_PLANS}.apply")
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            followed = _imports(module) if _of_plans(module) else (n for n in _imports(module) if not _of_plans(n))
            waiting.extend(name for name in followed if _counts(name))
    return tuple(sorted(found))


def _of_plans(module: str) -> bool:
    return module.startswith(f"{_PLANS}.")


@functools.lru_cache(maxsize=512)
def _code(path: Path) -> str:
    """The file's text without comments, docstrings, refusals and empty lines: the same under all versions of Python."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    refused = _refusals(_tree(path))
    at_start = True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and at_start):
            (first, left), (last, right) = token.start, token.end
            for number in range(first - 1, last):
                line = lines[number]
                begin, end = (left if number == first - 1 else 0), (right if number == last - 1 else len(line))
                lines[number] = line[:begin] + " " * (end - begin) + line[end:]
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            at_start = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    return "\n".join(line.rstrip() for number, line in enumerate(lines, 1) if line.strip() and number not in refused)


def _refusals(tree: ast.Module) -> set[int]:
    """Lines of the statements that refuse, of each `if` that does nothing else, and that import what is raised."""
    found: set[int] = set()
    signals = _signals(tree)
    for node in ast.walk(tree):
        alone = isinstance(node, ast.If) and not node.orelse and all(_refuses(it, signals) for it in node.body)
        errors = isinstance(node, ast.ImportFrom) and node.module == "suffuse.base.errors"
        if alone or errors or _refuses(node, signals):
            assert isinstance(node, ast.stmt)
            assert node.end_lineno is not None
            found |= set(range(node.lineno, node.end_lineno + 1))
    return found


def _signals(tree: ast.Module) -> set[str]:
    """Exceptions that are no refusals: those of ours that are not in `base`, which our own code catches and goes on."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom) and re.match(r"suffuse\.(?!base\.)", node.module or ""):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def _refuses(node: ast.AST, signals: set[str]) -> bool:
    if not isinstance(node, ast.Raise):
        return False
    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return not (isinstance(raised, ast.Name) and raised.id in signals)


def source_hash(modules: Iterable[str], named: Iterable[str] = ()) -> str:
    """Hash of the code of modules and of all that they import, see `closure`; files are read once a process."""
    return _hash_of(frozenset(modules), frozenset(named))


@functools.lru_cache(maxsize=512)
def _hash_of(modules: frozenset[str], named: frozenset[str]) -> str:
    found = {}
    for module in closure(modules, named):
        path = _file(module)
        assert path is not None
        found[module] = _code(path)
    return digest(found)
