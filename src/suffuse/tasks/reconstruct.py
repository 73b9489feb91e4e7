"""Judge an autoencoder by what comes back of images: the error in pixels, and the distance in features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError
from suffuse.base.randomness import permutation
from suffuse.data import Dataset, contact_sheet, save_picture, to_uint8
from suffuse.metrics import Measurement, Ruler, SquaredError
from suffuse.models.codec import Codec, CodecConfig
from suffuse.models.pretrained import load_codec, local_folder, read_config
from suffuse.tasks.generate import Generated
from suffuse.tasks.judge import ImageJudge
from suffuse.training.card import add_figures
from suffuse.training.codec_recipe import CodecRecipe
from suffuse.training.recipe_files import load_recipe
from suffuse.training.run import RECIPE_FILE
from suffuse.training.world import choose_device

__all__ = ["OpenCodec", "Reconstructed", "check_sent", "evaluate_codec", "is_codec", "open_codec", "there_and_back"]

_VERSION = 1
_BATCH = 256  # images at a time
_SHEET = 50  # pairs on the sheet


@dataclass(frozen=True)
class OpenCodec:
    """A run of an autoencoder, ready to be used.

    Attributes:
        folder: Where it is.
        codec: In evaluation mode, on its device.
        recipe: What it was trained by; None when it came without.
    """

    folder: Path
    codec: Codec
    recipe: CodecRecipe | None

    @property
    def config(self) -> CodecConfig:
        """Of the codec."""
        assert self.codec.config is not None
        return self.codec.config


@dataclass(frozen=True)
class Reconstructed:
    """What an evaluation found.

    Attributes:
        psnr: Peak signal-to-noise ratio over all pixels, in decibels.
        distance: Of the images that came back from the data, in features, with its ruler.
        floor: What two halves of the real data score.
        samples: How many images went there and back.
    """

    psnr: float
    distance: Measurement
    floor: float | None
    samples: int

    def dump(self) -> dict[str, Any]:  # Any: JSON values
        """Plain data."""
        return {
            "format_version": _VERSION,
            "psnr": self.psnr,
            "distance": self.distance.dump(),
            "floor": self.floor,
            "samples": self.samples,
        }

    def table(self) -> str:
        """Markdown: the figures, then what they were measured with."""
        ruler = self.distance.ruler
        floor = (
            [] if self.floor is None else [f"| {self.distance.name}, two halves of the real data | {self.floor:.4g} |"]
        )
        return "\n".join(
            [
                "| measure | value |",
                "|---|---|",
                f"| PSNR of reconstructions, dB | {self.psnr:.2f} |",
                f"| {self.distance.name} of reconstructions | {self.distance.value:.4g} |",
                *floor,
                "",
                f"Ruler: weights {ruler.weights}, {self.samples} images, features {ruler.features}, reference "
                f"{ruler.data} ({ruler.reference_count} samples), torch {ruler.versions.torch}, suffuse "
                f"{ruler.versions.suffuse}.",
            ]
        )


def is_codec(name: str | Path) -> bool:
    """Whether a folder, or a repository on the Hub, holds an autoencoder."""
    return isinstance(read_config(local_folder(name)), CodecConfig)


def open_codec(name: str | Path, *, weights: str | None = None, device: str = "auto") -> OpenCodec:
    """Load the run of an autoencoder; arguments and errors as for `open_run`."""
    place = choose_device(device)
    folder = local_folder(name)
    codec = load_codec(folder, weights=weights).to(place)
    file = folder / RECIPE_FILE
    recipe = load_recipe(str(file)) if file.is_file() else None
    if not isinstance(recipe, CodecRecipe | None):
        raise RunError(f"{file} is no recipe of an autoencoder, but {folder} holds one; restore it")
    return OpenCodec(folder if Path(name).is_dir() else Path("runs") / str(name).replace("/", "--"), codec, recipe)


@torch.no_grad()
def there_and_back(codec: Codec, dataset: Dataset, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Images, and what comes back of them through the means of their latents, on the CPU.

    Yields:
        Some images at a time, (b, C, H, W) twice.
    """
    for rows in torch.split(index, _BATCH):
        images = dataset.batch(rows).x0
        assert images is not None
        yield images, codec.decode(codec.encode(images.to(codec.device))).clamp(-1, 1).cpu()


def check_sent(run: OpenCodec, dataset: Dataset, samples: int) -> None:
    """Refuse images that cannot be judged, before features are trained on them.

    Raises:
        UsageError: Another shape, or too few.
    """
    if dataset.shape != run.config.shape:
        raise UsageError(
            f"the autoencoder takes images of {run.config.shape}, but data {dataset.name!r} have {dataset.shape}; give "
            "others"
        )
    if min(samples, len(dataset)) < ImageJudge.least:
        raise UsageError(
            f"{min(samples, len(dataset))} images are too few to be judged by; ask for at least {ImageJudge.least}, "
            "better a thousand"
        )


def evaluate_codec(run: OpenCodec, judge: ImageJudge, *, samples: int, seed: int = 1) -> Reconstructed:
    """Send images there and back, measure what comes back, and write `evaluation/` in the run's folder.

    Args:
        run: The autoencoder.
        judge: Its data are what is sent; its features measure the distance.
        samples: How many, at most.
        seed: Which.
    """
    dataset = judge.dataset
    index = permutation(seed, "reconstructed", 0, len(dataset))[:samples]
    back: list[Tensor] = []
    pairs: list[Tensor] = []
    error = SquaredError()
    for sent, came in there_and_back(run.codec, dataset, index):
        error.add(sent, came)
        back.append(came)
        if sum(len(some) for some in pairs) < 2 * _SHEET:
            pairs.append(torch.stack([sent[:_SHEET], came[:_SHEET]], dim=1).flatten(0, 1))
    ruler = Ruler(
        weights=run.config.weights,
        solver="none",
        grid="none",
        nfe=0,
        guidance="none",
        precision="float32",
        samples=len(index),
        data="",
        reference="",
        reference_count=1,
        seed=seed,
    )
    made = Generated(torch.cat(back), None, (), 0.0, 0.0)
    found = Reconstructed(error.psnr, judge.distance(made, ruler), judge.floor, len(index))
    place = run.folder / "evaluation"
    files.make_folder(place)
    save_picture(contact_sheet(to_uint8(torch.cat(pairs)[: 2 * _SHEET]), columns=10), place / "reconstructions.png")
    files.write_json(place / "figures.json", found.dump())
    add_figures(run.folder, found.table())
    return found
