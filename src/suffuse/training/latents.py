"""Data as latents: a frozen codec, measured on the data, and the latents that it makes of them, computed once.

Source: rombach2022ldm, Section 3.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from suffuse.base import files
from suffuse.base.errors import UsageError
from suffuse.base.figures import new_figure, save_figure
from suffuse.base.randomness import permutation
from suffuse.data import Dataset
from suffuse.data.cache import ArrayFile, Filled, cached
from suffuse.metrics import Spread, spread
from suffuse.models.codec import Codec
from suffuse.models.config import ModelConfig
from suffuse.models.pretrained import load_codec, load_model, read_config, save_model
from suffuse.objectives.frozen import FrozenRun
from suffuse.training.frozen_parts import PARTS, content_of, copy_generator, find_codec, is_copy
from suffuse.training.measured import samples_of, some

__all__ = ["CodecRun", "draw_spreads", "encoded", "latents_of", "own_codec", "spreads_of"]

DECODER = "decoder"
"""Folder, within a run's copy of a compressor, of the denoiser that decodes."""
_BATCH = 256  # images read at a time
_NUMBERS = 2_000_000  # of a channel at most whose spread is taken


class CodecRun(FrozenRun):
    """A finished autoencoder in whose latents a model lives.

    Attributes:
        std: Deviation that each channel of the latents is brought to, measured on the data; its mean becomes 0. 0.5 is
            what the EDM path's models expect (sigma_data), 1 what variance-preserving and flow paths do. None keeps
            what the codec has: the copy inside another run, for a model that builds on that run.
    """

    std: float | None = Field(default=0.5, gt=0)


def own_codec(run: CodecRun, dataset: Dataset, folder: Path, device: torch.device) -> CodecRun:
    """The run's own copy of a codec, made when there is none yet: measured on the data, named by what it is.

    Args:
        run: The codec, by its run or by the copy.
        dataset: Images.
        folder: Of the run that lives in the latents.
        device: Where images are encoded.

    Raises:
        UsageError: No such codec, or images that it does not take. It takes other sizes than it was trained on.
    """
    codec = load_codec(find_codec(run, folder), weights=run.weights)
    assert codec.config is not None
    if codec.config.shape[:1] != dataset.shape[:1] or len(dataset.shape) != 3:
        raise UsageError(
            f"codec {run.run} takes images of {codec.config.shape}, but the data have {dataset.shape}; change "
            "data.channels, or train another autoencoder"
        )
    if codec.config.shape != dataset.shape and codec.config.network.fixed_size:
        raise UsageError(
            f"codec {run.run} takes images of {codec.config.shape} alone, but the data have {dataset.shape}; change "
            "data.size, or train another autoencoder"
        )
    if codec.config.shape != dataset.shape:  # convolutions take any size that they can halve
        codec.config.network.latent_shape(dataset.shape)
        codec.config = codec.config.replace(shape=dataset.shape)
    if is_copy(run):
        return run
    if run.std is not None:
        _measure(codec.to(device), dataset, run.std)
    source = find_codec(run, folder)
    draws = load_model(source, weights=run.weights) if isinstance(read_config(source), ModelConfig) else None
    told = "" if draws is None else content_of(draws)
    name = f"{PARTS}/{content_of(codec, told)}"
    if not (folder / name).is_dir():
        files.make_folder(folder / PARTS)
        decoder = None if draws is None else DECODER
        with files.staged(folder / name) as place:
            save_model(place, codec.config.replace(others=(), decoder=decoder), codec.state_dict(), {})
            if draws is not None:
                copy_generator(draws, source, place / DECODER)
    return run.replace(run=name, weights=None)


def latents_of(
    run: CodecRun, dataset: Dataset, folder: Path, device: torch.device, *, mirrored: bool = False
) -> Dataset:
    """The latents of a data set by the run's own copy of a codec; other arguments as for `own_codec`.

    Args:
        mirrored: With those of the mirrored images, for training that mirrors half of them.
    """
    codec, name = load_codec(folder / run.run).to(device), Path(run.run).name
    plain = encoded(dataset, codec, name)
    if not mirrored:
        return plain
    return replace(plain, mirrored=encoded(dataset, codec, name, mirrored=True).store)


@torch.no_grad()
def _measure(codec: Codec, dataset: Dataset, std: float) -> None:
    """Find mean and deviation of each channel, to four digits, and make the codec standardise them."""
    codec.standardise(torch.zeros(len(codec.shift)), torch.ones(len(codec.shift)), 1.0)
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for index in some(dataset):
        latents = codec.encode(samples_of(dataset, index).to(codec.device)).double()
        count += latents.numel() // latents.shape[1]
        total, squares = total + latents.sum((0, 2, 3)).cpu(), squares + latents.square().sum((0, 2, 3)).cpu()
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    if dead := [place for place, value in enumerate(deviation.tolist()) if not value > 1e-6]:
        raise UsageError(
            f"channel {dead[0]} of the codec's latents is the same for all images; train the autoencoder longer, with "
            "fewer latent_channels or a smaller objective.kl"
        )
    # Sums differ in their last digits from machine to machine; a codec must not be another one for that.
    codec.standardise(_rounded(mean), _rounded(deviation), std)


def _rounded(values: Tensor) -> Tensor:
    return torch.tensor([float(f"{value:.4g}") for value in values.tolist()])


def encoded(dataset: Dataset, codec: Codec, name: str, *, mirrored: bool = False) -> Dataset:
    """Latents of all images, (N, c, h, w) float32 in a mapped file of the user's cache, with the images' labels.

    Args:
        dataset: Images.
        codec: Measured on them.
        name: Hash of the codec's content.
        mirrored: Of the images mirrored left to right: a mirrored image has other latents than the mirrored ones.
    """

    @torch.no_grad()
    def fill(file: ArrayFile) -> Filled:
        for index in torch.split(torch.arange(len(dataset)), _BATCH):
            images = samples_of(dataset, index).to(codec.device)
            for latent in codec.encode(images.flip(3) if mirrored else images).float().cpu().numpy():
                file.add(latent)
        return Filled(dataset.labels, dataset.captions, dataset.classes, dataset.report)

    key = {"codec": name, "data": dataset.fingerprint, **({"mirrored": True} if mirrored else {})}
    return cached(None, f"{dataset.name}-latents", key, fill)


def spreads_of(dataset: Dataset, what: str) -> tuple[Spread, ...]:
    """How the numbers of each channel spread, over some of the samples, and of large ones over some of the numbers.

    Args:
        dataset: Images or latents.
        what: What a channel is called.
    """
    parts = some(dataset)
    places = math.prod(dataset.shape[1:])
    kept = min(places, max(1, _NUMBERS // sum(map(len, parts))))
    picked = permutation(0, "spread", 0, places)[:kept]
    values = np.concatenate([samples_of(dataset, part).flatten(2)[:, :, picked].numpy() for part in parts])
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
