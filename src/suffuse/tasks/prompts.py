"""Prompts: texts that a run's samples shall show, as the conditions that its model reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.models.frozen_text import FrozenText
from suffuse.models.text import TextPart
from suffuse.tasks.runs import OpenRun
from suffuse.training.companions import CaptionReader
from suffuse.training.decoding import OF_DECODER

__all__ = ["prompt_conditions", "read_prompts", "reads_text"]


def reads_text(run: OpenRun) -> bool:
    """Whether the model of a run reads captions."""
    return run.config.conditioner.text is not None


def prompt_conditions(
    run: OpenRun, prompts: Sequence[str], note: Callable[[str], None] = lambda text: None
) -> Conditions:
    """What the model of a run reads of prompts, on the CPU; an empty prompt is none.

    A denoiser that decodes may read them otherwise: then its own reading is beside it, see `training.decoding`.

    Args:
        run: Whose model reads them.
        prompts: One a sample.
        note: Told of prompts that are too long and lose their end.

    Raises:
        UsageError: The model reads no text, or what makes its tokens is missing.
    """
    text = run.config.conditioner.text
    if text is None:
        knows = "classes, see --label" if run.config.conditioner.label_count else "no conditions"
        raise UsageError(f"a prompt needs a model that reads text, but this one knows {knows}; leave the prompt out")
    for prompt in prompts:
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise UsageError(f"the prompt {prompt!r} is not whole UTF-8; write it anew")
    cond = Conditions()
    places = torch.arange(len(prompts)).numpy()
    for before, reader in _readers(run, text):
        for name, companion in reader.companions(tuple(prompts), note).items():
            cond = companion.added(cond, before + name, places, None)
    return cond


def _readers(run: OpenRun, text: TextPart) -> Iterator[tuple[str, CaptionReader]]:
    """Who reads captions, and what stands before the names of what it reads."""
    yield "", CaptionReader(text, run.place, run.model.device)
    decoder = run.decoder
    if decoder is None or decoder.model is None or decoder.folder is None:
        return
    assert decoder.model.config is not None
    own = decoder.model.config.conditioner.text
    if own is not None and _tokens_of(own) != _tokens_of(text):
        yield OF_DECODER, CaptionReader(own, decoder.folder, run.model.device)


def _tokens_of(text: TextPart) -> tuple[object, ...]:
    """What decides what a reader makes of a caption before any of its weights do."""
    if isinstance(text, FrozenText):
        return text.kind, text.length, text.hash, text.layer
    return text.kind, text.length, dict(text).get("tokenizer")


def read_prompts(path: Path) -> tuple[str, ...]:
    """Prompts of a text file, one a line; empty lines are left out.

    Raises:
        UsageError: It cannot be read as text, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"prompts cannot be read from {path} ({error}); give a text file, a prompt a line") from None
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise UsageError(f"{path} has no prompts; write one a line")
    return found
