"""Data as latents: a frozen codec, measured on the data, and the latents that it makes of them, computed once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from suffuse.base import files
from suffuse.base.errors import UsageError
from suffuse.base.figures import new_figure, save_figure
from suffuse.data import Dataset
from suffuse.data.cache import ArrayFile, Filled, cached
from suffuse.metrics import Spread, spread
from suffuse.models.codec import Codec
from suffuse.models.pretrained import load_codec, save_model
from suffuse.objectives.frozen import FrozenRun
from suffuse.training.frozen_parts import PARTS, content_of, is_copy
from suffuse.training.measured import samples_of, some

__all__ = ["CodecRun", "draw_spreads", "encoded", "into_latents", "spreads_of"]

_BATCH = 256  # images encoded at a time


class CodecRun(FrozenRun):
    """A finished autoencoder in whose latents a model lives.

    Attributes:
        std: Deviation that each channel of the latents is brought to; its mean becomes 0. 0.5 is what the EDM path's
            models expect (sigma_data), 1 what variance-preserving and flow paths do.
    """

    std: float = Field(default=0.5, gt=0)


def into_latents(run: CodecRun, dataset: Dataset, folder: Path, device: torch.device) -> tuple[CodecRun, Dataset]:
    """The latents of a data set, and the run's own copy of the codec that made them.

    The first time the codec is measured on the data and copied into the run's folder; later the copy is used.

    Args:
        run: The codec, by its run or by the copy.
        dataset: Images.
        folder: Of the run that lives in the latents.
        device: Where images are encoded.

    Raises:
        UsageError: No such codec, or images of another shape.
    """
    if is_copy(run):
        codec = _loaded(run, folder / run.run, dataset)
    else:
        codec = _loaded(run, Path(run.run) if Path(run.run).is_dir() else run.run, dataset)
        words = f"{content_of(codec)}/{dataset.fingerprint}/{run.std!r}"
        run = run.replace(run=f"{PARTS}/{hashlib.sha256(words.encode()).hexdigest()[:16]}", weights=None)
        if (folder / run.run).is_dir():
            codec = load_codec(folder / run.run)
        else:
            _measure(codec.to(device), dataset, run.std)
            assert codec.config is not None
            files.make_folder(folder / PARTS)
            with files.staged(folder / run.run) as place:
                save_model(place, codec.config.replace(others=()), codec.state_dict(), {})
    return run, encoded(dataset, codec.to(device), Path(run.run).name)


def _loaded(run: CodecRun, place: str | Path, dataset: Dataset) -> Codec:
    codec = load_codec(place, weights=run.weights)
    assert codec.config is not None
    if codec.config.shape != dataset.shape:
        raise UsageError(
            f"codec {run.run} takes images of {codec.config.shape}, but the data have {dataset.shape}; change "
            "data.size and data.channels, or train another autoencoder"
        )
    return codec


@torch.no_grad()
def _measure(codec: Codec, dataset: Dataset, std: float) -> None:
    """Find mean and deviation of each channel, and make the codec standardise them."""
    raw = codec.network.moments  # the codec may come from another run, measured on other data
    latents = torch.cat([raw(samples_of(dataset, part).to(codec.device))[0].double() for part in some(dataset)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    if dead := [place for place, value in enumerate(deviation.tolist()) if not value > 0]:
        raise UsageError(
            f"channel {dead[0]} of the codec's latents is the same for all images; train the autoencoder longer, with "
            "fewer latent_channels or a smaller objective.kl"
        )
    codec.standardise(mean, deviation, std)


def encoded(dataset: Dataset, codec: Codec, name: str) -> Dataset:
    """Latents of all images, (N, c, h, w) float32 in a mapped file of the user's cache, with the images' labels.

    Args:
        dataset: Images.
        codec: Measured on them.
        name: Hash of the codec's content.
    """

    @torch.no_grad()
    def fill(file: ArrayFile) -> Filled:
        for index in torch.split(torch.arange(len(dataset)), _BATCH):
            for latent in codec.encode(samples_of(dataset, index).to(codec.device)).float().cpu().numpy():
                file.add(latent)
        return Filled(dataset.labels, dataset.captions, dataset.classes, dataset.report)

    return cached(None, f"{dataset.name}-latents", {"codec": name, "data": dataset.fingerprint}, fill)


def spreads_of(dataset: Dataset, what: str) -> tuple[Spread, ...]:
    """How the numbers of each channel spread, over some of the samples.

    Args:
        dataset: Images or latents.
        what: What a channel is called.
    """
    values = torch.cat([samples_of(dataset, part) for part in some(dataset)]).numpy()
    return tuple(spread(f"{what} {channel}", values[:, channel]) for channel in range(values.shape[1]))


def draw_spreads(spreads: tuple[Spread, ...], path: Path) -> None:
    """Box plots side by side, whiskers up to the outer fences; Figure 3 of dao2025slct looks so."""
    figure = new_figure(2 + 0.6 * len(spreads), 3.6)
    axes = figure.add_subplot()
    boxes = [
        {
            "label": item.name,
            "q1": item.quartiles[0],
            "med": item.quartiles[1],
            "q3": item.quartiles[2],
            "whislo": item.fences[0],
            "whishi": item.fences[1],
            "fliers": np.array(item.extremes),
        }
        for item in spreads
    ]
    axes.bxp(boxes, flierprops={"marker": ".", "markersize": 3})
    axes.tick_params(axis="x", labelrotation=45)
    axes.set_title("outer fences, and what lies beyond them")
    save_figure(figure, path)
