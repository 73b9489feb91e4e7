"""Conformance of every part of every joint's table, found by walking the package."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

import suffuse
from suffuse.base.errors import UsageError
from suffuse.base.part import Joint, Part, parse

# Parts that have no neutral setting say here what they cannot do without.
_NEEDS: dict[tuple[str, str], dict[str, Any]] = {
    ("conditioner", "class_label"): {"classes": 10},
    ("reader", "class_label"): {"classes": 10},
    ("conditioner", "label_number"): {"classes": 10, "null": True},
    ("exact", "few_steps"): {"solver": {"kind": "ddim"}},
    ("exact", "price"): {"ambient": 3, "rank": 1},
    ("exact", "scheduler_match"): {"pair": "DDIM"},
    ("exact", "solver_order"): {"solver": {"kind": "ddim"}},
    ("exact", "weak_order"): {"solver": {"kind": "ddpm"}},
    ("exact", "singularity"): {"path": {"kind": "vp"}, "prediction": "eps"},
    ("data", "hub"): {"path": "someone/pictures"},
    ("data", "images"): {"path": "pictures"},
    ("guidance", "autoguidance"): {"bad": "runs/small"},
    ("guidance", "dps"): {"measurement": {"kind": "inpainting"}},
    ("grid", "list"): {"listed": [1.0, 0.5]},
    ("plan", "held"): {"blocks": ["mid"]},
    ("measure", "plan_fidelity"): {"ways": [{"name": "a"}]},
    ("objective", "bootstrap"): {"teacher": {"run": "runs/teacher"}},
}


def _tables() -> Iterator[tuple[Any, Joint]]:
    """Every joint's annotated type and its table."""
    seen: set[int] = set()
    for module in pkgutil.walk_packages(suffuse.__path__, "suffuse."):
        try:
            members = vars(importlib.import_module(module.name))
        except ImportError:  # told once, by tests/test_house.py
            continue
        for value in members.values():
            for joint in get_args(value)[1:]:
                if isinstance(joint, Joint) and id(joint) not in seen:
                    seen.add(id(joint))
                    yield value, joint


_TABLES = list(_tables())
_PARTS = [
    pytest.param(annotated, part, _NEEDS.get((joint.name, kind), {}), id=f"{joint.name}.{kind}")
    for annotated, joint in _TABLES
    for kind, part in joint.parts.items()
]
every_part = pytest.mark.parametrize(("joint", "part", "needs"), _PARTS)


def test_the_walk_finds_the_tables() -> None:
    assert {"path", "prediction", "time", "noise levels", "weighting"} <= {joint.name for _, joint in _TABLES}


@every_part
def test_survives_json_as_an_equal_part(joint: Any, part: type[Part], needs: dict[str, Any]) -> None:
    built = part(**needs)
    plain = json.loads(json.dumps(built.dump()))
    for again in (parse(part, plain), TypeAdapter(joint).validate_python(plain)):
        assert type(again) is part
        assert again == built
        assert hash(again) == hash(built)


@every_part
def test_bare_name_is_the_default(joint: Any, part: type[Part], needs: dict[str, Any]) -> None:
    kind = part.model_fields["kind"].default
    built = TypeAdapter(joint).validate_python({"kind": kind, **needs} if needs else kind)
    assert built == part(**needs)


@every_part
def test_is_frozen(joint: Any, part: type[Part], needs: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        part(**needs).kind = "other"  # type: ignore[attr-defined]  # every part at a joint has a kind


@every_part
def test_misspelt_keys_get_the_nearest_name(joint: Any, part: type[Part], needs: dict[str, Any]) -> None:
    for name in part.model_fields:
        with pytest.raises(UsageError, match=f"has no key '{name}x'; did you mean '{name}'") as caught:
            parse(part, {**needs, f"{name}x": 1})
        assert "\n" not in str(caught.value)


@every_part
def test_fields_are_plain_data(joint: Any, part: type[Part], needs: dict[str, Any]) -> None:
    for name, value in part(**needs):
        assert not isinstance(value, list | dict | set), f"{name} is mutable: a part could change after it was hashed"
