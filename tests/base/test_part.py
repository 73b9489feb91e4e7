"""Parts and joints: plain data in, an equal part out, and messages that name key, value and mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError, model_validator

import suffuse.base.part as part_module
from suffuse.base.errors import SuffuseError, UsageError, closest, unknown_name
from suffuse.base.part import Joint, Part, parse


class ShapePart(Part):
    kind: str


class Circle(ShapePart):
    kind: Literal["circle"] = "circle"
    radius: float = Field(default=1.0, gt=0)


class Ring(ShapePart):
    kind: Literal["ring"] = "ring"
    inner: float = 1.0
    outer: float = 2.0

    @model_validator(mode="after")
    def _ordered(self) -> Ring:
        if self.inner >= self.outer:
            raise ValueError(f"inner {self.inner} is not below outer {self.outer}; swap them")
        return self


Simple = Annotated[ShapePart, Joint("shape", Circle, Ring)]


class Stack(ShapePart):
    kind: Literal["stack"] = "stack"
    of: Simple = Circle()
    heights: tuple[float, ...] = (1.0,)


Shape = Annotated[ShapePart, Joint("shape", Circle, Ring, Stack)]


class Size(Part):
    width: int = 3


class Drawing(Part):
    shape: Shape = Circle()
    size: Size = Size()
    title: str | None = None


class Foreign(ShapePart):
    kind: Literal["foreign"] = "foreign"
    weight: float = 0.5


class _Entry:
    """An installed package's entry point."""

    def load(self) -> type[Part]:
        return Foreign


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Another package offers `foreign` at the joint `shape`; the names that were looked up."""
    asked: list[str] = []

    def find(group: str, name: str) -> list[_Entry]:
        asked.append(f"{group}:{name}")
        return [_Entry()] if name == "shape.foreign" else []

    monkeypatch.setattr(part_module, "entry_points", find)
    return asked


def message_of(build: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        build()
    assert "\n" not in str(caught.value), "a message is one line"
    return str(caught.value)


def test_nested_parts_survive_json_whole() -> None:
    drawing = Drawing(shape=Stack(of=Ring(inner=0.1, outer=0.3), heights=(0.1, 2.0)), title="a")
    plain = json.loads(json.dumps(drawing.dump()))
    assert plain["shape"]["of"] == {"kind": "ring", "inner": 0.1, "outer": 0.3}, "a base-class field would lose these"
    again = parse(Drawing, plain)
    assert again == drawing
    assert hash(again) == hash(drawing)
    assert isinstance(again.shape, Stack)
    assert isinstance(again.shape.heights, tuple)


def test_infinite_numbers_survive_json() -> None:
    ring = Ring(outer=float("inf"))
    assert parse(Ring, json.loads(json.dumps(ring.dump()))) == ring


def test_bare_name_and_mapping_and_part_are_the_same() -> None:
    built = [parse(Drawing, {"shape": given}) for given in ("ring", {"kind": "ring"}, Ring())]
    assert built[0] == built[1] == built[2]
    assert built[0].shape == Ring()


def test_equal_fields_make_equal_parts_and_kinds_differ() -> None:
    assert Circle(radius=2) == Circle(radius=2.0)
    assert len({Circle(), Circle(radius=1.0), Ring()}) == 2


def test_replace_validates_and_leaves_the_original() -> None:
    ring = Ring()
    assert ring.replace(outer=5.0) == Ring(outer=5.0)
    assert ring == Ring()
    assert "inner 1.0 is not below outer 0.5; swap them" in message_of(lambda: ring.replace(outer=0.5))
    assert "did you mean 'outer'?" in message_of(lambda: ring.replace(outr=5.0))


def test_replace_keeps_nested_parts() -> None:
    drawing = Drawing(shape=Stack(of=Ring()))
    assert drawing.replace(title="b").shape is drawing.shape


def test_parts_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Circle().radius = 2.0  # type: ignore[misc]  # the point of the test


def test_defaults_are_validated_too() -> None:
    class Broken(Part):
        radius: float = Field(default=-1.0, gt=0)

    assert message_of(lambda: parse(Broken, {})) == "Broken: radius: Input should be greater than 0 (got -1.0)"


def test_taken_kind_names_both() -> None:
    class Disc(ShapePart):
        kind: Literal["circle"] = "circle"

    with pytest.raises(TypeError, match="shape: kind 'circle' is taken by Circle and Disc"):
        Joint("shape", Circle, Disc)


def test_part_without_kind_cannot_stand_at_a_joint() -> None:
    with pytest.raises(TypeError, match="ShapePart has no `kind` with a default name"):
        Joint("shape", ShapePart)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"shape": "circel"},
            "Drawing: shape: shape 'circel' does not exist; did you mean 'circle'? there are: circle, ring, stack",
        ),
        ({"shape": "zzz"}, "Drawing: shape: shape 'zzz' does not exist; there are: circle, ring, stack"),
        ({"shape": {"radius": 2}}, "Drawing: shape: shape needs `kind`, one of: circle, ring, stack"),
        ({"shape": 7}, "Drawing: shape: shape must be a name or a mapping with `kind`, not 7"),
        (
            {"shape": {"kind": "circle", "radios": 2}},
            "Drawing: shape: shape 'circle' has no key 'radios'; did you mean 'radius'? It has: kind, radius.",
        ),
        (
            {"shape": {"kind": "circle", "radius": -2}},
            "Drawing: shape: shape 'circle': radius: Input should be greater than 0 (got -2)",
        ),
        (
            {"shape": {"kind": "stack", "of": "circel"}},
            "Drawing: shape: shape 'stack': of: shape 'circel' does not exist; did you mean 'circle'? "
            "there are: circle, ring",
        ),
        (
            {"shape": {"kind": "ring", "inner": 3}},
            "Drawing: shape: shape 'ring': inner 3.0 is not below outer 2.0; swap them",
        ),
        ({"titel": "a"}, "Drawing has no key 'titel'; did you mean 'title'? It has: shape, size, title."),
        ({"size": {"widht": 1}}, "Drawing has no key 'size.widht'; did you mean 'width'? It has: width."),
        (
            {"size": {"width": "wide"}},
            "Drawing: size.width: Input should be a valid integer, unable to parse string as an integer (got 'wide')",
        ),
    ],
)
def test_messages_name_key_value_and_mend(data: dict[str, object], message: str) -> None:
    assert message_of(lambda: parse(Drawing, data)) == message


def test_messages_carry_the_owner_and_all_mistakes() -> None:
    message = message_of(lambda: parse(Drawing, {"titel": "a", "shape": "circel"}, "digits.yaml: drawing"))
    assert message.count("digits.yaml: drawing") == 2
    assert "'titel'" in message
    assert "'circel'" in message


def test_missing_key_is_said_without_the_whole_input() -> None:
    class Needs(Part):
        width: int

    assert message_of(lambda: parse(Needs, {})) == "Needs: width: Field required"


def test_part_of_another_joint_is_refused() -> None:
    assert "must be a name or a mapping" in message_of(lambda: parse(Drawing, {"shape": Size()}))


def test_unknown_kinds_come_from_installed_packages(installed: list[str]) -> None:
    drawing = parse(Drawing, {"shape": {"kind": "foreign", "weight": 2}})
    assert drawing.shape == Foreign(weight=2)
    assert parse(Drawing, drawing.dump()) == drawing
    assert set(installed) == {"suffuse.parts:shape.foreign"}


def test_own_kinds_are_not_looked_up_elsewhere(installed: list[str]) -> None:
    parse(Drawing, {"shape": "ring"})
    assert installed == []


def test_a_joint_is_a_field_type_outside_parts() -> None:
    adapter = TypeAdapter(tuple[Shape, ...])
    assert adapter.validate_python(["ring", {"kind": "circle"}]) == (Ring(), Circle())
    assert json.loads(adapter.dump_json((Ring(),))) == [Ring().dump()]


def test_exit_codes_and_nearest_names() -> None:
    error = unknown_name("recipe", "digit", ["digits", "rings"])
    assert str(error) == "recipe 'digit' does not exist; did you mean 'digits'? there are: digits, rings"
    assert isinstance(error, SuffuseError)
    assert error.exit_code == 2
    assert str(unknown_name("recipe", "digit", [])) == "recipe 'digit' does not exist; there are: none"
    assert closest("heum", ["heun", "euler"]) == "heun"
    assert closest("zzz", ["heun", "euler"]) is None
