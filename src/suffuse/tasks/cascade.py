"""Cascades of resolution: what the last model of a cascade is told, drawn by the models before it.

Source: ho2022cascaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys
from suffuse.data.images import Images
from suffuse.models.low_resolution import LOW, LOW_KEY, LowResolution
from suffuse.models.picture import PICTURE, Picture
from suffuse.tasks.prompts import prompt_conditions, reads_text
from suffuse.tasks.runs import OpenRun, own_data
from suffuse.training.sample_conditions import labels_told, rows_told

if TYPE_CHECKING:
    from suffuse.tasks.generate import Asked

__all__ = ["class_names", "enlarged_conditions", "label_count", "shown_pictures", "text_reader"]


def text_reader(run: OpenRun) -> OpenRun | None:
    """The last stage of a cascade, or the run itself, that reads captions; None when none does."""
    if reads_text(run) or run.first is None:
        return run if reads_text(run) else None
    return text_reader(run.first)


def label_count(run: OpenRun) -> int:
    """How many classes the run, or the last stage of its cascade that knows any, is told of; 0 when none is."""
    own = run.config.conditioner.label_count
    return own or (0 if run.first is None else label_count(run.first))


def class_names(run: OpenRun) -> tuple[str, ...]:
    """Names of the classes that `label_count` counts; empty where they have none."""
    own = run.config.classes
    return own or (() if run.first is None else class_names(run.first))


def _seed_before(seed: int) -> int:
    """Seed of the stage before: its noise must have nothing to do with that of the stage after it."""
    return int(keys(seed, "earlier stage", 0, torch.zeros(1, dtype=torch.int64)))


def enlarged_conditions(
    run: OpenRun, n: int, asked: Asked, captions: tuple[str, ...], *, number: int | None, first: int, seed: int
) -> Conditions:
    """Conditions of n samples of a cascade's last model: small images by the models before it, labels, captions.

    Args:
        run: Has a first stage.
        n: How many.
        asked: What a user asks of them.
        captions: n texts; none for a cascade that reads none.
        number: Class of all of them; all in turn when None.
        first: Number of the first sample.
        seed: With the sample's number it determines the small image.
    """
    from suffuse.tasks.generate import Asked, generate

    earlier = run.first
    assert earlier is not None
    knows, reads = label_count(earlier), text_reader(earlier) is not None
    if asked.prompts and asked.pictures is None and PICTURE in run.model.conditioner.reads:
        raise UsageError("this model is told picture too, which a prompt cannot give; sample it in Python")
    pictures = _pictures(run, n, asked.pictures, number, first)
    wish = Asked(
        label=asked.label if knows else None,
        prompts=captions if reads else (),
        negative=asked.negative if reads and earlier.sampling.guidance.most_evaluations > 1 else None,
        pictures=_brought_to(earlier, pictures),
    )
    made = generate(earlier, n, earlier.sampling, seed=_seed_before(seed), first=first, asked=wish)
    values = {LOW: made.x.clamp(-1, 1)}
    if pictures is not None and PICTURE in run.model.conditioner.reads:
        values[PICTURE] = pictures
    if LOW_KEY in run.model.conditioner.reads:
        values[LOW_KEY] = keys(seed, "observed", 0, torch.arange(first, first + n))
    if classes := label_count(run):
        values["label"] = labels_told(classes, n, first, number)
    cond = prompt_conditions(run, captions) if captions and reads_text(run) else Conditions()
    return cond.plus(**values)


def shown_pictures(run: OpenRun, n: int, pictures: Tensor) -> Tensor:
    """Pictures that were asked for, one each, for a model that is shown some.

    Raises:
        UsageError: It is shown none, or there are not n of them.
    """
    if PICTURE not in run.model.conditioner.reads:
        raise UsageError("this model is shown no pictures beside its samples; leave them out")
    if len(pictures) != n:
        raise UsageError(f"there are {len(pictures)} pictures for {n} samples; give one for each")
    return pictures


def _pictures(run: OpenRun, n: int, asked: Tensor | None, label: int | None, first: int) -> Tensor | None:
    """What the last model, and those before it, are shown: as asked, else of its own data in turn; None for nothing."""
    if asked is not None:
        return shown_pictures(run, n, asked)
    if PICTURE not in run.model.conditioner.reads:
        return None
    data = own_data(run)
    return data.batch(rows_told(data, n, first, label)).cond.values[PICTURE]


def _brought_to(run: OpenRun, pictures: Tensor | None) -> Tensor | None:
    """Pictures at the size that an earlier model is shown them; None for one that is shown none."""
    told = run.config.conditioner
    part = told.beside if isinstance(told, LowResolution) else told
    if pictures is None or not isinstance(part, Picture):
        return None
    sides = (part.picture_shape[1], part.picture_shape[2])
    if part.resize == "nearest" or _kept_unmixed(run):
        return F.interpolate(pictures, sides, mode="nearest-exact")
    return F.adaptive_avg_pool2d(pictures, sides)


def _kept_unmixed(run: OpenRun) -> bool:
    """Whether the pictures that the run was trained on were made small without mixing their colours."""
    data = None if run.recipe is None else run.recipe.data
    return isinstance(data, Images) and data.condition_resize == "nearest"
