"""What a run that is resumed may not change: it would be another run, by the name of this one."""

from __future__ import annotations

from typing import Any

from suffuse.base.errors import UsageError
from suffuse.objectives.frozen import FrozenRun
from suffuse.training.recipes import AnyRecipe

__all__ = ["changes_told", "check_data", "check_resumed"]

_PROCESS = ("path", "prediction", "time", "coupling")
_TRAINING = ("batch", "seed", "flip")
_FROZEN = tuple(FrozenRun.model_fields)
_ANOTHER = "resume with its own, or begin another run from this one's model with init.run=FOLDER"


def check_resumed(recipe: AnyRecipe, recorded: AnyRecipe) -> None:
    """Refuse another process, objective, batch or seed than those with which the run was begun.

    Where frozen models lie may change: they were copied when the run was begun.

    Args:
        recipe: As it is resumed.
        recorded: As the run's folder has it.

    Raises:
        UsageError: Names the setting, what it was and what it is now.
    """
    for name in _PROCESS:
        _check(name, getattr(recipe, name, None), getattr(recorded, name, None))
    if getattr(recipe, "init", None) is not None and getattr(recorded, "init", None) is None:
        raise UsageError("init names weights to start from, but a run that is resumed has its own; leave init out")
    now, begun = (_settings(getattr(one, "objective", None)) for one in (recipe, recorded))
    if now.get("kind") == begun.get("kind"):  # else the checkpoint refuses it
        for name in now:
            _check(f"objective.{name}", now[name], begun[name])
    for name in _TRAINING:
        _check(f"training.{name}", getattr(recipe.training, name), getattr(recorded.training, name))


def changes_told(recipe: AnyRecipe, recorded: AnyRecipe) -> tuple[str, ...]:
    """Sentences about what a resumed run goes on with otherwise than it was begun."""
    old, new = recorded.optimiser.dump(), recipe.optimiser.dump()
    changed = [f"{name} {new[name]} (was {old[name]})" for name in new if new[name] != old[name]]
    return (f"the optimiser goes on with other settings: {', '.join(changed)}",) if changed else ()


def check_data(now: str, begun: str | None) -> None:
    """Refuse other data than those that the run has seen so far.

    Args:
        now: Fingerprint of the data.
        begun: That in the checkpoint; None in one of before there was any.

    Raises:
        UsageError: They differ.
    """
    if begun is not None and begun != now:
        raise UsageError(
            "the data are not those that the run was begun with: pictures, labels or captions were added, removed or "
            "changed, or other settings of data make them so; bring them back, or begin another run from this one's "
            "model with init.run=FOLDER"
        )


def _check(name: str, now: Any, begun: Any) -> None:  # Any: values of any setting
    if now != begun:
        raise UsageError(f"the run was begun with {name} {_told(begun)}, not {_told(now)}; {_ANOTHER}")


def _settings(objective: Any) -> dict[str, Any]:  # Any: as above
    """An objective as plain data, without the frozen runs that it asks: they were copied, under other names."""

    def kept(value: Any) -> Any:  # Any: as above
        return {k: kept(v) for k, v in value.items() if k not in _FROZEN} if isinstance(value, dict) else value

    found: dict[str, Any] = {} if objective is None else kept(objective.dump())
    return found


def _told(value: Any) -> str:  # Any: as above
    return str(value.dump()) if hasattr(value, "dump") else str(value)
