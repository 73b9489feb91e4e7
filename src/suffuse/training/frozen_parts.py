"""Finished runs that a new run builds on: teachers kept as copies inside it, and weights that it starts from."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError
from suffuse.base.part import Part
from suffuse.base.weights import check_state, load_weights
from suffuse.models.codec import Codec
from suffuse.models.conditioner import ConditionerPart
from suffuse.models.denoiser import Denoiser
from suffuse.models.pretrained import load_codec_config, load_config, load_model, local_folder, save_model
from suffuse.models.text import Text
from suffuse.models.tokenizer import TOKENIZER_FILE
from suffuse.objectives.frozen import FrozenRun, check_space
from suffuse.process import ConsistencyPrediction, EDMPrediction
from suffuse.training.run_files import RECIPE_FILE

if TYPE_CHECKING:
    from suffuse.training.recipes import AnyRecipe

__all__ = [
    "PARTS",
    "content_of",
    "copy_generator",
    "embedded",
    "find_codec",
    "is_copy",
    "kept",
    "located",
    "start_from",
]

PARTS = "parts"
"""Folder of a run in which its frozen models are kept, each under the hash of what it is."""


def embedded(recipe: AnyRecipe, folder: Path) -> AnyRecipe:
    """Copy the frozen models of objective and conditioner into a run's folder; the recipe then names the copies.

    A codec is copied when the data have been read, see `latents`; that it is there is seen to here.

    Raises:
        UsageError: A frozen run does not exist, or a copy is missing.
    """
    codec = getattr(recipe, "codec", None)
    if codec is not None:
        find_codec(codec, folder)
    changes: dict[str, object] = {"objective": _mapped(recipe.objective, folder, copy=True)}
    conditioner = getattr(recipe, "conditioner", None)
    if isinstance(conditioner, ConditionerPart) and conditioner.draws_from is not None:
        changes["conditioner"] = _with_generator(conditioner, folder)
    return recipe.replace(**changes)


def _with_generator(conditioner: ConditionerPart, folder: Path) -> ConditionerPart:
    """The conditioner naming the run's own copy of the generator that it draws from, made when there is none yet."""
    run = str(conditioner.draws_from)
    if Path(run).parts[:1] == (PARTS,):
        if not (folder / run).is_dir():
            raise UsageError(f"the run's own copy of its first stage, {folder / run}, is missing; bring it back")
        return conditioner
    try:
        source = local_folder(Path(run) if Path(run).is_dir() else run)
        load_config(source)
    except (UsageError, RunError) as error:
        raise UsageError(
            f"conditioner.run {run!r} cannot be opened ({error}); train a model of small images first and name its run"
        ) from None
    model = load_model(source, weights=getattr(conditioner, "weights", None))
    file = source / RECIPE_FILE
    # The way it is sampled is a part of what it draws.
    how = yaml.safe_load(file.read_text(encoding="utf-8")).get("sampling") if file.is_file() else None
    name = content_of(model, json.dumps(how, sort_keys=True))
    if not (folder / PARTS / name).is_dir():
        files.make_folder(folder / PARTS)
        with files.staged(folder / PARTS / name) as place:
            copy_generator(model, source, place)
    return conditioner.replace(run=f"{PARTS}/{name}", weights=None)


def copy_generator(model: Denoiser, source: Path, place: Path) -> None:
    """Write a model of a run with all that its own sampling needs: recipe, tokenizer, codec, its own first stage.

    Args:
        model: As it was loaded from `source`.
        source: Folder of its run.
        place: Where it goes; an empty folder.
    """
    assert model.config is not None
    save_model(place, model.config.replace(others=()), model.state_dict(), {})
    for name in (RECIPE_FILE, TOKENIZER_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, place / name)
    for part in (model.config.codec, model.config.conditioner.draws_from):
        if part is not None:
            shutil.copytree(source / part, place / part)


def find_codec(codec: FrozenRun, folder: Path) -> Path:
    """Folder of a codec: the run's own copy, or that of its run.

    Raises:
        UsageError: It is not there, or no autoencoder.
    """
    if is_copy(codec):
        if not (folder / codec.run).is_dir():
            raise UsageError(f"the run's own copy of its codec, {folder / codec.run}, is missing; bring it back")
        return folder / codec.run
    try:
        place = local_folder(Path(codec.run) if Path(codec.run).is_dir() else codec.run)
    except (UsageError, RunError) as error:
        raise UsageError(
            f"codec {codec.run} cannot be opened ({error}); train an autoencoder first, such as "
            f"suffuse train mnist28-autoencoder out={codec.run}, or name the run of one with codec.run=FOLDER"
        ) from None
    load_codec_config(place)
    return place


def kept(recipe: AnyRecipe, recorded: AnyRecipe) -> AnyRecipe:
    """The recipe of a resumed run, asking the copies that the run has: a teacher is not changed half-way.

    Raises:
        UsageError: It names a frozen model where the run has none, or another objective.
    """
    if recipe.objective.kind != recorded.objective.kind:
        raise UsageError(
            f"the run was trained with objective {recorded.objective.kind!r}, not {recipe.objective.kind!r}; resume "
            "with its own, or begin another run"
        )
    found = recorded.objective
    frozen = {name: getattr(found, name) for name in type(found).model_fields}
    frozen = {name: value for name, value in frozen.items() if isinstance(value, FrozenRun)}
    changes: dict[str, object] = {"objective": recipe.objective.replace(**frozen)} if frozen else {}
    if isinstance(mine := getattr(recipe, "sigma_data", None), float | str):
        measured = getattr(recorded, "sigma_data", mine)
        if mine not in ("auto", measured):
            raise UsageError(f"the run was trained with sigma_data {measured}, not {mine}; resume with its own")
        changes["sigma_data"] = measured
    told = getattr(recipe, "conditioner", None), getattr(recorded, "conditioner", None)
    if all(isinstance(part, ConditionerPart) and part.draws_from is not None for part in told):
        changes["conditioner"] = told[0].replace(run=told[1].run, weights=told[1].weights)  # type: ignore[union-attr]  # seen to above
    read = [part.text if isinstance(part, ConditionerPart) else None for part in told]
    begun = [isinstance(text, Text) and text.run is not None for text in read]
    if all(begun):
        own = changes.get("conditioner", told[0])
        changes["conditioner"] = own.reading(read[1])  # type: ignore[attr-defined]  # seen to above
    elif any(begun) and all(text is not None for text in read):
        raise UsageError(
            f"the run was begun {'with' if begun[1] else 'without'} a text encoder of another run (conditioner.run); "
            "resume it so, or begin another run"
        )
    ours, theirs = getattr(recipe, "codec", None), getattr(recorded, "codec", None)
    if ours is not None and theirs is not None and ours.std != theirs.std:
        raise UsageError(f"the run's latents have codec.std {theirs.std}, not {ours.std}; resume with its own")
    if (ours is None) != (theirs is None):
        raise UsageError(
            f"the run was trained {'in pixels' if theirs is None else 'in the latents of a codec'}; resume it so, or "
            "begin another run"
        )
    return recipe.replace(**changes, **({} if theirs is None else {"codec": theirs}))


def located(recipe: AnyRecipe, folder: Path) -> AnyRecipe:
    """The recipe with its copies named by their place on this machine."""
    codec = getattr(recipe, "codec", None)
    # As it is: measured again on the same data it would be another one in the last digits.
    changes = {} if codec is None else {"codec": _mapped(codec, folder, copy=False).replace(std=None)}
    return recipe.replace(objective=_mapped(recipe.objective, folder, copy=False), **changes)


def _mapped(part: Part, folder: Path, *, copy: bool) -> Part:
    changes: dict[str, object] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Part):
            new = _mapped(value, folder, copy=copy)
            if new != value:
                changes[name] = new
    if isinstance(part, FrozenRun):
        changes |= _copied(part, folder) if copy else {"run": str(folder / part.run)} if is_copy(part) else {}
    return part.replace(**changes) if changes else part


def is_copy(frozen: FrozenRun) -> bool:
    """Whether it names the copy within the run that uses it."""
    return Path(frozen.run).parts[:1] == (PARTS,)


def _copied(frozen: FrozenRun, folder: Path) -> dict[str, object]:
    """Fields that name a copy, made when it is not there yet."""
    if is_copy(frozen):
        if not (folder / frozen.run).is_dir():
            raise UsageError(f"the run's own copy of a frozen model, {folder / frozen.run}, is missing; bring it back")
        return {}
    model = load_model(Path(frozen.run) if Path(frozen.run).is_dir() else frozen.run, weights=frozen.weights)
    assert model.config is not None
    files.make_folder(folder / PARTS)
    name = content_of(model)
    if not (folder / PARTS / name).is_dir():
        with files.staged(folder / PARTS / name) as place:
            save_model(place, model.config.replace(others=()), model.state_dict(), {})
    return {"run": f"{PARTS}/{name}", "weights": None}


def content_of(model: Denoiser | Codec, beside: str = "") -> str:
    """Hash of a model's configuration and weights, 16 hexadecimal digits.

    Args:
        model: The model.
        beside: Hash of what belongs to it, such as the denoiser that decodes.
    """
    assert model.config is not None
    plain = model.config.replace(others=(), weights="raw").dump()
    if plain.get("decoder", "") is None:
        del plain["decoder"]
    found = hashlib.sha256(json.dumps(plain, sort_keys=True).encode() + beside.encode())
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def start_from(model: Denoiser, init: FrozenRun) -> str:
    """Give a fresh model the weights of a finished run; returns a sentence about it.

    A map's vector for its target time, which a denoiser lacks, stays fresh: it is zero.

    Raises:
        UsageError: Another architecture, or weights that would mean something else.
    """
    source = load_model(Path(init.run) if Path(init.run).is_dir() else init.run, weights=init.weights)
    if source.estimate == "endpoint" and model.estimate == "mean":
        raise UsageError(
            f"init {init.run} is a flow map, whose endpoints are no means; a denoiser cannot start from it: give a "
            "denoiser's run"
        )
    for what in ("path", "time", "prediction", "sigma_data"):
        mine, theirs = getattr(model, what), getattr(source, what)
        alike = {EDMPrediction, ConsistencyPrediction}  # they differ by the boundary alone
        if mine != theirs and not (what == "prediction" and {type(mine), type(theirs)} <= alike):
            raise UsageError(
                f"init {init.run} was trained with {what} {theirs!r}, this recipe has {mine!r}: its weights would mean "
                f"something else; use the same {what}"
            )
    check_space(model, source, f"init {init.run}")
    fresh = {name: value for name, value in model.state_dict().items() if name.startswith("target.")}
    weights = {**fresh, **source.state_dict()}
    check_state(model.state_dict(), weights, owner=f"the weights of init {init.run}")
    load_weights(model, weights)
    assert source.config is not None
    return f"weights start from {init.run} ({source.config.weights}, step {source.config.step})"
