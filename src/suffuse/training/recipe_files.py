"""Recipes as YAML: reading, inheriting, overriding from the command line, and writing back."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from importlib.resources import files as packaged
from pathlib import Path
from typing import Any

import yaml

from suffuse.base.errors import UsageError, unknown_name
from suffuse.base.part import parse
from suffuse.data import data_from
from suffuse.training.recipe_base import RecipePart
from suffuse.training.recipes import RECIPES, AnyRecipe

__all__ = [
    "SHORT",
    "Tree",
    "dump_recipe",
    "dump_tree",
    "list_recipes",
    "load_recipe",
    "merged",
    "overrides_of",
    "read_recipe_file",
    "recipe_from",
    "stage_tree",
]

# Short overrides that every recipe takes.
SHORT = {
    "size": "data.size",
    "steps": "training.steps",
    "minutes": "training.minutes",
    "batch": "training.batch",
    "seed": "training.seed",
    "device": "training.device",
    "precision": "training.precision",
    "checkpoint_every": "training.checkpoint_every",
}

Tree = dict[str, Any]  # Any: YAML values


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats (1e-4 is a number), and repeated keys are mistakes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # Any: YAML values
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain name", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_FLOAT = re.compile(
    r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)|[-+]?\d[\d_]*\.[\d_]*|[-+]?\.(inf|Inf)|\.(nan|NaN)"
)
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in {"tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{_FLOAT.pattern})$"), list("-+0123456789."))


class _Dumper(yaml.SafeDumper):
    """Quotes the text that the loader would take for something else, such as '1e-4'."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def list_recipes() -> tuple[str, ...]:
    """Names of the recipes in the package."""
    folder = packaged("suffuse.recipes")
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def _parsed(text: str, where: str) -> Tree:
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{where} must hold keys and values, not {type(tree).__name__}")
    return tree


def read_recipe_file(name: str) -> Tree:
    """Raw YAML of a recipe by name or path, its `base:` merged in; NAME:STAGE is a stage of one that has some.

    Raises:
        UsageError: No such recipe or stage, not YAML, a circle of bases.
    """
    recipe, colon, stage = name.rpartition(":")
    if not colon or Path(name).is_file():
        return _read(name, ())
    tree = _read(recipe, ())
    stages = tree.get("stages")
    if not isinstance(stages, dict):
        raise UsageError(f"recipe {recipe!r} has no stages, so that {name!r} names nothing; leave ':{stage}' out")
    if stage not in stages:
        raise unknown_name(f"stage of recipe {recipe!r}", stage, stages)
    return stage_tree(tree, stage)


# Of a recipe with stages: what is not laid under every stage.
_OWN = ("learns", "about", "technique", "stages", "out")


def stage_tree(tree: Tree, stage: str) -> Tree:
    """A stage of a recipe as a recipe: its base, then what holds for all stages, then its own fields."""
    shared = {key: value for key, value in tree.items() if key not in _OWN}
    fields = dict(tree["stages"][stage] or {})
    base = fields.pop("base", None)
    if base is not None:
        shared = merged(read_recipe_file(str(base)), shared)
    return merged(shared, fields)


def _read(name: str, above: tuple[str, ...]) -> Tree:
    if name in above:
        raise UsageError(f"recipe {name!r} is its own base ({' -> '.join((*above, name))}); remove one `base`")
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        if not path.is_file():
            raise UsageError(f"recipe file {name} does not exist; give a file, or one of: {', '.join(list_recipes())}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"recipe file {name} cannot be read as text ({error}); give a YAML file") from None
        tree = _parsed(text, str(path))
    else:
        if name not in list_recipes():
            raise unknown_name("recipe", name, list_recipes())
        tree = _parsed(
            packaged("suffuse.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8"), f"recipe {name}"
        )
    base = tree.pop("base", None)
    if base is None:
        return tree
    beside = path.parent / str(base)
    return merged(_read(str(beside) if beside.is_file() else str(base), (*above, name)), tree)


def merged(base: Tree, changes: Tree) -> Tree:
    """Lay changes over a base, key by key; a mapping of another `kind` replaces the old one whole.

    A bare name in the base is a part of that kind, so that changes can reach into it; `auto` is not one.
    """
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, str) and old != "auto":
            old = {"kind": old}
        if isinstance(old, dict) and isinstance(value, dict) and value.get("kind", old.get("kind")) == old.get("kind"):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def overrides_of(pairs: Sequence[str], recipe: Tree) -> Tree:
    """What `key=value` overrides change of a recipe, as plain data.

    Of two that say the same the last counts; `data=` and `kind`s come before all others, which change what they choose.

    Raises:
        UsageError: No such key, no value, a value that is no YAML, or two budgets.
    """
    kind, tree = _kind(recipe), Tree()
    for pair in sorted(pairs, key=_reach):
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"override {pair!r} is not key=value; write for example steps=200 or optimiser.lr=1e-4")
        if key.split(".")[0] not in {*SHORT, *kind.model_fields}:
            raise unknown_name("recipe key", key, [*SHORT, *kind.model_fields])
        if not text and key in ("data", "out"):
            raise UsageError(f"override {pair!r} has no value; give a path, or leave it out")
        if key == "data":
            tree = merged(tree, {"data": data_from(text)})
            continue
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError:
            raise UsageError(f"override {pair!r}: the value is not YAML; quote it") from None
        if key == "out":
            value = text
        for name in reversed(SHORT.get(key, key).split(".")):
            value = {name: value}
        tree = merged(tree, value)
    training = tree.get("training")
    # Who names steps does not want a recipe's budget of time.
    if isinstance(training, dict) and "steps" in training and training.setdefault("minutes", None) is not None:
        raise UsageError("steps and minutes both say how long to train; give one of them")
    optimiser = tree.get("optimiser")
    if isinstance(optimiser, dict) and isinstance(recipe.get("optimiser"), dict):
        tree["optimiser"] = {**recipe["optimiser"], **optimiser}  # another kind has the same fields
    return tree


def _reach(pair: str) -> tuple[int, int]:
    """Rank of an override: the data, then kinds of parts, the outer ones first, then all others as they come."""
    key = pair.partition("=")[0]
    if key == "data":
        return 0, 0
    return (1, key.count(".")) if key.endswith(".kind") else (2, 0)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """A recipe by name or file, with `key=value` overrides.

    Raises:
        UsageError: No such recipe, key or value; the nearest right name is offered.
    """
    tree = read_recipe_file(name)
    return recipe_from(merged(tree, overrides_of(overrides, tree)), owner=f"recipe {name!r}")


def recipe_from(tree: Mapping[str, Any], owner: str) -> AnyRecipe:  # Any: YAML values
    """A recipe from plain data.

    Args:
        tree: Its fields.
        owner: What to call it in messages.

    Raises:
        UsageError: No such key or value; the nearest right name is offered.
    """
    found = parse(_kind(tree), tree, owner=owner)
    assert isinstance(found, AnyRecipe)
    return found


def _kind(tree: Mapping[str, Any]) -> type[RecipePart]:  # Any: as above
    learns = str(tree.get("learns", "generator"))
    if learns == "stages":
        raise UsageError("this recipe has stages, which are recipes themselves; here one recipe is wanted")
    if learns not in RECIPES:
        raise unknown_name("kind of recipe (learns)", learns, RECIPES)
    return RECIPES[learns]


def dump_recipe(recipe: RecipePart) -> str:
    """YAML of a whole recipe, which reads back as an equal one."""
    return dump_tree(recipe.dump())


def dump_tree(tree: Tree) -> str:
    """YAML of plain data, which reads back as equal ones."""

    def plain(value: Any) -> Any:  # Any: YAML values
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    text: str = yaml.dump(plain(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text
