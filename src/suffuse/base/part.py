"""Parts (configuration that computes) and Joints (the table of parts that fit one place)."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from suffuse.base.errors import UsageError, closest

__all__ = ["Joint", "Part", "explain", "parse"]

P = TypeVar("P", bound="Part")
ENTRY_POINT_GROUP = "suffuse.parts"

# How pydantic names the branches of a choice, such as `literal['auto']` and `constrained-int`.
_BRANCH = re.compile(
    r"(literal|tuple|list|function-\w+|constrained-\w+|nullable|is-instance)(\[|$)|(int|float|str|bool|none)$"
)
# Kinds of pydantic error whose message already shows the value.
_OWN_WORDS = frozenset({"in_part", "no_kind", "not_a_part", "unknown_kind"})


class Part(BaseModel):
    """A frozen piece of configuration whose methods compute; equal fields make equal parts.

    Concrete parts carry `kind: Literal["name"] = "name"`, by which recipes and `config.json` name them.
    """

    # JSON has no infinity: it is written as a string, which reads back as the number.
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=True, ser_json_inf_nan="strings"
    )

    def replace(self, **changes: Any) -> Self:  # Any: values of any field; they are validated on construction
        """Return a copy with some fields changed, validated like a new part."""
        return parse(type(self), {**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    def dump(self) -> dict[str, Any]:  # Any: JSON-like values
        """Return plain data (str, float, list, dict) that builds an equal part again."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())  # Any: as above
        return plain


def _kind_of(part: type[Part]) -> str:
    kind = part.model_fields["kind"].default
    if not isinstance(kind, str):
        raise TypeError(f"{part.__name__} has no `kind` with a default name")
    return kind


class Joint:
    """The parts that fit one joint: pydantic metadata that builds a concrete part from `{kind: ...}` or a bare name.

    `Solver = Annotated[SolverPart, Joint("solver", DDIM, Heun)]` makes a field type. Unknown kinds are looked up in the
    entry-point group `suffuse.parts` under `joint.kind`, so other packages can add parts without touching this one.
    """

    def __init__(self, name: str, *parts: type[Part]) -> None:
        self.name = name
        self.parts: dict[str, type[Part]] = {}
        for part in parts:
            kind = _kind_of(part)
            if kind in self.parts:
                raise TypeError(f"{name}: kind {kind!r} is taken by {self.parts[kind].__name__} and {part.__name__}")
            self.parts[kind] = part

    def find(self, kind: str) -> type[Part]:
        """Return the part class of `kind`.

        Raises:
            PydanticCustomError: No such kind, here or among installed packages; the nearest name is offered.
        """
        if kind in self.parts:
            return self.parts[kind]
        for entry in entry_points(group=ENTRY_POINT_GROUP, name=f"{self.name}.{kind}"):
            loaded: type[Part] = entry.load()
            return loaded
        near = closest(kind, self.parts)
        raise PydanticCustomError(
            "unknown_kind",
            "{name} {kind} does not exist; {hint}there are: {options}",
            {
                "name": self.name,
                "kind": repr(kind),
                "hint": f"did you mean {near!r}? " if near else "",
                "options": ", ".join(sorted(self.parts)),
            },
        )

    def _build(self, value: object, base: type[Part]) -> Part:
        if isinstance(value, base):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            raise PydanticCustomError(
                "not_a_part",
                "{name} must be a name or a mapping with `kind`, not {got}",
                {"name": self.name, "got": repr(value)},
            )
        if "kind" not in value:
            raise PydanticCustomError(
                "no_kind",
                "{name} needs `kind`, one of: {options}",
                {"name": self.name, "options": ", ".join(sorted(self.parts))},
            )
        part = self.find(str(value["kind"]))
        try:
            return part.model_validate(dict(value))
        except ValidationError as error:
            # A ValidationError inside a validator would be flattened to its many-line text.
            message = str(explain(error, f"{self.name} {value['kind']!r}", part.model_fields))
            raise PydanticCustomError("in_part", "{message}", {"message": message}) from None

    def __get_pydantic_core_schema__(self, source: type[Part], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            functools.partial(self._build, base=source),
            # The concrete part is dumped: a plain field of the base class would serialise to nothing.
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda part, info: part.model_dump(mode=info.mode), info_arg=True
            ),
        )


def explain(error: ValidationError, owner: str, fields: Mapping[str, Any] | None = None) -> UsageError:
    """Turn pydantic's report into one sentence: the key, the value, what is allowed, the nearest right name."""
    known = list(fields or ())
    sentences = []
    for item in _meant(error):
        key = ".".join(str(piece) for piece in item["loc"])
        place = f"{owner}: {key}" if key else owner
        if item["type"] == "extra_forbidden":
            near = closest(str(item["loc"][-1]), known)
            hint = f"; did you mean {near!r}?" if near else ""
            allowed = f" It has: {', '.join(sorted(known))}." if known else ""
            sentences.append(f"{owner} has no key {key!r}{hint}{allowed}")
        elif item["type"] in _OWN_WORDS:
            sentences.append(f"{place}: {item['msg']}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            whole = not item["loc"] or item["type"] == "missing"
            sentences.append(f"{place}: {message}" + ("" if whole else f" (got {item['input']!r})"))
    return UsageError(" | ".join(sentences))


def _meant(error: ValidationError) -> list[dict[str, Any]]:  # Any: pydantic's report
    """Errors at their place, without the names that pydantic has for the branches of a choice.

    Where one branch understood what was meant, the others, which ask for `auto` or another type, say nothing.
    """
    found: list[dict[str, Any]] = [  # Any: as above
        {**item, "loc": tuple(piece for piece in item["loc"] if not _BRANCH.match(str(piece)))}
        for item in error.errors(include_url=False)
    ]
    wrong = [item["type"] == "literal_error" or item["type"].endswith("_type") for item in found]
    clear = {item["loc"] for item, off in zip(found, wrong, strict=True) if not off}
    return [item for item, off in zip(found, wrong, strict=True) if not off or item["loc"] not in clear]


def parse(part: type[P], data: Mapping[str, Any] | P, owner: str | None = None) -> P:
    """Build a part from plain data; a mistake is a `UsageError` that names key, value and mend.

    Args:
        part: Class to build.
        data: Fields as plain data, or a finished part of that class.
        owner: What to call it in messages; the class's name when None.

    Raises:
        UsageError: Unknown key, wrong type, value out of range.
    """
    try:
        return part.model_validate(data)
    except ValidationError as error:
        raise explain(error, owner or part.__name__, _fields_at(part, error)) from None


def _fields_at(part: type[Part], error: ValidationError) -> dict[str, Any]:
    """Fields of the part in which the first unknown key stands (nested parts are reached through their annotation)."""
    here: type[BaseModel] = part
    for item in error.errors(include_url=False):
        for piece in item["loc"][:-1]:
            field = here.model_fields.get(str(piece))
            if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
                return {}
            here = field.annotation
        break
    return dict(here.model_fields)
