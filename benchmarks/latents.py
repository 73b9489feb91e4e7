"""Training in latents: how fast cached ones are served, what a step waits for them, and what encoding would cost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import Times, alternate, ratio
from suffuse.base.batch import Batch
from suffuse.data import Dataset, Loader
from suffuse.data.companion import Companion
from suffuse.models.codec import CodecConfig
from suffuse.models.config import ModelConfig
from suffuse.models.text import CAPTION, Text
from suffuse.networks import KLAutoencoder, UNet
from suffuse.objectives import Denoising
from suffuse.process import Flow, FlowVelocity, LogitNormal
from suffuse.training.settings import OptimiserSettings, TrainingSettings
from suffuse.training.trainer import Trainer
from suffuse.training.world import World

__all__ = ["measure"]

Row = tuple[str, str, str]
_COUNT, _LATENT, _WORDS = 20_000, (4, 32, 32), 32
_BATCH, _BATCHES = 256, 20
_STEP, _STEPS = 32, 4
_IMAGE = (3, 128, 128)


def _cached(folder: Path) -> Dataset:
    """Latents in a mapped file, as a run has them, with the tokens of a thousand different captions."""
    path = folder / "latents.npy"
    rng = np.random.default_rng(0)
    np.save(path, rng.standard_normal((_COUNT, *_LATENT), dtype=np.float32))
    dataset = Dataset.of("latents", np.load(path, mmap_mode="r"), latents=True)
    tokens = rng.integers(1, 400, (1000, _WORDS))
    return dataset.beside(**{CAPTION: Companion(tokens, rng.integers(0, 1000, _COUNT))})


def _told(times: dict[str, Times], above: str, below: str) -> str:
    middle, low, high = ratio(times[above], times[below])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _serving(dataset: Dataset, rounds: int) -> Row:
    loader = Loader(dataset, batch=_BATCH, seed=0)
    inside = np.array(dataset.store)
    rows = [loader.index(step).numpy() for step in range(_BATCHES)]
    ways = {
        "ours": lambda: [loader.at(step) for step in range(_BATCHES)],
        "memory": lambda: [np.take(inside, some, axis=0) for some in rows],
    }
    times = alternate(ways, rounds=rounds)
    speed = _BATCHES * _BATCH * inside[0].nbytes / times["ours"].median / 1e9
    what = "serving mapped latents 4x32x32 with captions, batch 256, over picking the same numbers from memory"
    return what, f"{_told(times, 'ours', 'memory')}, {speed:.1f} GB/s", "at most 1.5"


def _stepping(dataset: Dataset, rounds: int) -> Iterator[Row]:
    network = UNet(channels=32, multipliers=(1, 2), blocks=1, attention_levels=(1,), groups=8)
    text = Text(width=64, depth=1, heads=4, length=_WORDS, vocabulary=400)
    config = ModelConfig(network=network, shape=_LATENT, path=Flow(), prediction=FlowVelocity(), conditioner=text)
    trainer = Trainer(
        config.build(),
        Denoising(noise_levels=LogitNormal(stratified=True), condition_dropout=0.1),
        TrainingSettings(batch=_STEP),
        OptimiserSettings(),
        World(0, 1, torch.device("cpu")),
    )
    codec = CodecConfig(
        network=KLAutoencoder(channels=16, multipliers=(1, 2, 2), blocks=1, groups=8, latent_channels=4), shape=_IMAGE
    )
    encoder, images = codec.build().eval(), torch.rand(_STEP, *_IMAGE) * 2 - 1
    loader = Loader(dataset, batch=_STEP, seed=0)
    draws, held = loader.draws(0), loader.at(0)

    def by_hand() -> None:
        for _ in range(_STEPS):
            trainer.train_step(held, draws.at(trainer.step))

    def encoding() -> None:
        for _ in range(_STEPS):
            with torch.no_grad():
                latents = encoder.encode(images)
            trainer.train_step(Batch(x0=latents, cond=held.cond, index=held.index), draws.at(trainer.step))

    with loader.stream() as batches:

        def streamed() -> None:
            for _ in range(_STEPS):
                trainer.train_step(next(batches), draws.at(trainer.step))

        times = alternate({"ours": streamed, "held": by_hand, "encoding": encoding}, rounds=rounds)
    what = "training step on latents as they are served, over one on a batch that is there (U-Net 0.6 M, batch 32)"
    yield what, _told(times, "ours", "held"), "at most 1.02"
    what = "training step that encodes its images 128x128 first (factor 4, 16 channels), over ours on cached latents"
    yield what, _told(times, "encoding", "ours"), "-"


def measure(rounds: int) -> Iterator[Row]:
    """Rows of (what, figure, goal)."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _cached(Path(folder))
        yield _serving(dataset, rounds)
        yield from _stepping(dataset, rounds)
