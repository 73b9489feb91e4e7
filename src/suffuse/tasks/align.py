"""Judge an alignment of captions with images: how often what belongs together is found among others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError
from suffuse.base.randomness import permutation
from suffuse.data import DataPart, Dataset, contact_sheet, save_picture, to_uint8
from suffuse.models.alignment import Alignment, AlignmentConfig
from suffuse.models.pretrained import load_alignment, local_folder, read_config
from suffuse.models.text import CAPTION
from suffuse.objectives.contrastive import belonging
from suffuse.training.alignment_recipe import AlignmentRecipe
from suffuse.training.card import add_figures
from suffuse.training.companions import accompanied
from suffuse.training.recipe_files import load_recipe
from suffuse.training.run import RECIPE_FILE
from suffuse.training.world import choose_device

__all__ = ["Aligned", "OpenAlignment", "evaluate_alignment", "is_alignment", "open_alignment"]

_VERSION = 1
_AMONG = 100  # pairs in which each looks for its own
_SHEET = 50  # pairs on the sheet


@dataclass(frozen=True)
class OpenAlignment:
    """A run of an alignment, ready to be used.

    Attributes:
        folder: Where it is.
        source: Where its files are: for a model of the Hub, in the Hub's cache.
        model: In evaluation mode, on its device.
        recipe: What it was trained by; None when it came without.
    """

    folder: Path
    source: Path
    model: Alignment
    recipe: AlignmentRecipe | None


@dataclass(frozen=True)
class Aligned:
    """What an evaluation found: shares, in [0, 1].

    Attributes:
        image_of_caption: Captions whose nearest image is a right one.
        caption_of_image: Images whose nearest caption is a right one.
        chance: What a blind guess would score.
        among: How many pairs each was looked for in.
        samples: How many pairs there were.
    """

    image_of_caption: float
    caption_of_image: float
    chance: float
    among: int
    samples: int

    def dump(self) -> dict[str, Any]:  # Any: JSON values
        """Plain data."""
        return {"format_version": _VERSION, **vars(self)}

    def table(self) -> str:
        """Markdown: the figures, then how they were measured."""
        return "\n".join(
            [
                "| measure | value |",
                "|---|---|",
                f"| captions that find a right image | {self.image_of_caption:.1%} |",
                f"| images that find a right caption | {self.caption_of_image:.1%} |",
                f"| blind guesses that do | {self.chance:.1%} |",
                "",
                f"{self.samples} pairs, each looked for among {self.among}; equal captions are one.",
            ]
        )


def is_alignment(name: str | Path) -> bool:
    """Whether a folder, or a repository on the Hub, holds an alignment of captions with images."""
    return isinstance(read_config(local_folder(name)), AlignmentConfig)


def open_alignment(name: str | Path, *, weights: str | None = None, device: str = "auto") -> OpenAlignment:
    """Load the run of an alignment; arguments and errors as for `open_run`."""
    place = choose_device(device)
    source = local_folder(name)
    model = load_alignment(source, weights=weights).to(place)
    file = source / RECIPE_FILE
    recipe = load_recipe(str(file)) if file.is_file() else None
    if not isinstance(recipe, AlignmentRecipe | None):
        raise RunError(f"{file} is no recipe of an alignment, but {source} holds one; restore it")
    folder = source if Path(name).is_dir() else Path("runs") / str(name).replace("/", "--")
    return OpenAlignment(folder, source, model, recipe)


def _pairs(run: OpenAlignment, source: DataPart, samples: int, seed: int) -> tuple[Dataset, Tensor]:
    """Captioned images, and the numbers of those that are looked at: a multiple of what each is looked for in."""
    assert run.model.config is not None
    config, images = run.model.config, source.load()
    if images.shape != config.shape:
        raise UsageError(
            f"the alignment takes images of {config.shape}, but data {images.name!r} have {images.shape}; give others"
        )
    found = min(samples, len(images)) // _AMONG * _AMONG
    if not found:
        raise UsageError(
            f"{min(samples, len(images))} pairs are too few: each is looked for among {_AMONG}; ask for more, better a "
            "thousand"
        )
    (dataset,) = accompanied([(images, images)], config.text, run.source, run.model.device)
    return dataset, permutation(seed, "aligned", 0, len(dataset))[:found]


@torch.no_grad()
def evaluate_alignment(run: OpenAlignment, source: DataPart, *, samples: int, seed: int = 1) -> Aligned:
    """Let captions and images look for each other, and write `evaluation/` in the run's folder.

    Args:
        run: The alignment.
        source: Captioned images, of the shape that it was trained on.
        samples: How many pairs, at most.
        seed: Which.

    Raises:
        UsageError: Images of another shape or without captions, or too few.
    """
    dataset, index = _pairs(run, source, samples, seed)
    shares, sheet = [], list[Tensor]()
    for rows in torch.split(index, _AMONG):
        batch = dataset.batch(rows).to(run.model.device)
        assert batch.x0 is not None
        cosines = run.model.captions(batch.cond, len(rows)) @ run.model.images(batch.x0).T
        right = belonging(batch.cond.values[CAPTION])
        nearest = [values.argmax(1, keepdim=True) for values in (cosines, cosines.T)]
        shares.append(torch.stack([*(right.gather(1, one).float().mean() for one in nearest), right.float().mean()]))
        if len(sheet) < 2 * _SHEET:
            sheet += [image for pair in zip(batch.x0, batch.x0[nearest[0][:, 0]], strict=True) for image in pair]
    image, caption, chance = torch.stack(shares).mean(0).tolist()
    found = Aligned(image, caption, chance, _AMONG, len(index))
    place = run.folder / "evaluation"
    files.make_folder(place)
    save_picture(contact_sheet(to_uint8(torch.stack(sheet[: 2 * _SHEET]).cpu()), columns=10), place / "aligned.png")
    files.write_json(place / "figures.json", found.dump())
    add_figures(run.folder, found.table())
    return found
