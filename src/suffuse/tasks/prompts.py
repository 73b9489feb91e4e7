"""Prompts: texts that a run's samples shall show, as the conditions that its model reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.tasks.runs import OpenRun
from suffuse.training.companions import CaptionReader

__all__ = ["prompt_conditions", "read_prompts", "reads_text"]


def reads_text(run: OpenRun) -> bool:
    """Whether the model of a run reads captions."""
    return run.config.conditioner.text is not None


def prompt_conditions(
    run: OpenRun, prompts: Sequence[str], note: Callable[[str], None] = lambda text: None
) -> Conditions:
    """What the model of a run reads of prompts, on the CPU; an empty prompt is none.

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
    reader = CaptionReader(text, run.place, run.model.device)
    cond = Conditions()
    places = torch.arange(len(prompts)).numpy()
    for name, companion in reader.companions(tuple(prompts), note).items():
        cond = companion.added(cond, name, places, None)
    return cond


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
