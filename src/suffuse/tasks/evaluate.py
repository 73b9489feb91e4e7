"""Evaluate a run: samples, distances, memorisation, a sheet, all with their ruler, written beside the model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from suffuse.base import files
from suffuse.data import Shapes, contact_sheet, save_picture, to_uint8
from suffuse.data.agreement import Agreement, agreement
from suffuse.metrics import Measurement, MemorisationReport
from suffuse.metrics.ruler import dumps
from suffuse.tasks.generate import Generated, generate
from suffuse.tasks.judge import ImageJudge, Judge, ruler_of
from suffuse.tasks.pictures import save_sheet
from suffuse.tasks.runs import OpenRun
from suffuse.training.card import add_figures
from suffuse.training.settings import SamplingSettings

__all__ = ["Evaluated", "evaluate", "figures_table", "read_evaluation"]

FOLDER = "evaluation"
_VERSION = 2
_SHEET = 100  # samples on the sheet


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        measurements: Each with its ruler; the headline first.
        floor: What two halves of the real data score on the headline; None when unknown.
        memorised: The memorisation table; None for points.
        seconds: Of sampling.
        images_per_second: Of sampling.
        prompts: How far the samples show what their captions say; None where no program can read it off them.
    """

    measurements: tuple[Measurement, ...]
    floor: float | None
    memorised: MemorisationReport | None
    seconds: float
    images_per_second: float
    prompts: Agreement | None = None

    def dump(self) -> dict[str, Any]:  # Any: JSON values
        """Plain data."""
        return {
            "format_version": _VERSION,
            "measurements": json.loads(dumps(self.measurements))["measurements"],
            "floor": self.floor,
            "memorisation": _finite(self.memorised.dump()) if self.memorised else None,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "prompts": self.prompts.dump() if self.prompts else None,
        }


def _finite(value: Any) -> Any:  # Any: JSON values
    """The same with null for infinity, which JSON does not have: ratios are infinite where the data repeat."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def evaluate(
    run: OpenRun,
    judge: Judge,
    settings: SamplingSettings,
    *,
    samples: int = 1000,
    seed: int = 1,
    nearest: int = 256,
    on_samples: Callable[[int], None] | None = None,
) -> Evaluated:
    """Sample a run, measure it, and write `evaluation/` in its folder.

    Args:
        run: What to judge.
        judge: Reference data and feature space.
        settings: How to sample.
        samples: How many.
        seed: Of the samples.
        nearest: Samples whose nearest training image is looked up.
        on_samples: Called with the number of samples finished.
    """
    made = generate(run, samples, settings, seed=seed, on_samples=on_samples)
    ruler = ruler_of(run, settings, made, seed)
    found = Evaluated(
        measurements=judge.measure(made, ruler),
        floor=judge.floor,
        memorised=judge.memorised(made, nearest) if isinstance(judge, ImageJudge) else None,
        seconds=made.seconds,
        images_per_second=samples / made.seconds,
        prompts=_prompts_met(run, made),
    )
    place = run.folder / FOLDER
    files.make_folder(place)
    save_sheet(made.x[:_SHEET] if made.x.ndim == 4 else made.x, place / "samples.png")
    if isinstance(judge, ImageJudge) and found.memorised:
        _save_nearest(made, judge, found.memorised, place / "nearest.png")
    files.write_json(place / "figures.json", found.dump())
    add_figures(run.folder, figures_table(found))
    return found


def _prompts_met(run: OpenRun, made: Generated) -> Agreement | None:
    """For captioned shapes, which a program reads."""
    if not made.captions or run.recipe is None or not isinstance(run.recipe.data, Shapes):
        return None
    return agreement(to_uint8(made.x), made.captions)


def _save_nearest(made: Generated, judge: ImageJudge, report: MemorisationReport, path: Path) -> None:
    """Pairs of a sample and the image nearest to it, nearest pairs first, side by side."""
    pairs = report.worst
    generated = made.x[[pair.generated for pair in pairs]]
    training = judge.dataset.batch(torch.tensor([pair.training for pair in pairs])).x0
    assert training is not None
    both = torch.stack([generated, training], dim=1).flatten(0, 1)
    save_picture(contact_sheet(to_uint8(both), columns=8), path)


def figures_table(found: Evaluated) -> str:
    """Markdown: the figures, then their ruler in words."""
    rows = ["| measure | value |", "|---|---|"]
    rows += [f"| {item.name} | {item.value:.4g} |" for item in found.measurements]
    if found.floor is not None:
        name = found.measurements[0].name
        rows.append(f"| {name}, two halves of the real data, half the count | {found.floor:.4g} |")
    ruler = found.measurements[0].ruler
    rows += [
        "",
        f"Ruler: weights {ruler.weights}, solver {ruler.solver}, grid {ruler.grid}, NFE {ruler.nfe:g}, guidance "
        f"{ruler.guidance}, {ruler.precision}, {ruler.samples} samples of seed {ruler.seed}, features {ruler.features} "
        f"({(ruler.features_hash or 'exact')[:12]}), reference {ruler.data} ({ruler.reference[:12]}, "
        f"{ruler.reference_count} samples), torch {ruler.versions.torch}, suffuse {ruler.versions.suffuse}.",
    ]
    if found.prompts:
        rows += ["", *(f"{line[0].upper()}{line[1:]}." for line in found.prompts.lines())]
    if found.memorised:
        rows += ["", "Memorisation: " + "; ".join(found.memorised.lines()) + "."]
    return "\n".join(rows)


def read_evaluation(folder: Path) -> dict[str, Any] | None:  # Any: JSON values
    """What the last evaluation of a run wrote; None when there was none.

    Raises:
        UsageError: It was written by a newer version.
        RunError: It is damaged.
    """
    path = folder / FOLDER / "figures.json"
    if not path.is_file():
        return None
    data: dict[str, Any] = files.read_json(path)  # Any: as above
    if files.check_version(data, path=path, newest=_VERSION) == 1:
        # Version 1 looked for copies among unrounded samples, where there are none: better not told than told wrong.
        data["memorisation"] = None
    return data
