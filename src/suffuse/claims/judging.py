"""The judge of a claim's arms: one for all runs on the same data, and what real data score before it."""

from __future__ import annotations

import functools

import torch

from suffuse.base.randomness import permutation
from suffuse.data import Dataset, DensityPart
from suffuse.data.cache import default_cache
from suffuse.data.part import DataPart
from suffuse.metrics import Moments, frechet
from suffuse.tasks.judge import ImageJudge, Judge, PointJudge
from suffuse.training.extractor import train_extractor

__all__ = ["floor_of", "judge_of_data", "load_data"]

_REFERENCE = 10_000  # images at most that distances are taken to
_SUBSETS = 5


@functools.lru_cache(maxsize=4)
def load_data(source: DataPart) -> Dataset:
    """A data set, read once."""
    return source.load()


@functools.lru_cache(maxsize=2)
def judge_of_data(source: DataPart, device: torch.device) -> Judge:
    """One judge for all runs on the same data; its features are trained once and kept in the user's cache."""
    dataset = load_data(source)
    if isinstance(source, DensityPart):
        return PointJudge(dataset, source, _REFERENCE)
    extractor = train_extractor(dataset, cache=default_cache()).to(device)
    return ImageJudge(dataset, extractor, _REFERENCE)


def floor_of(judge: Judge, samples: int) -> float | None:
    """What so many real images score against the others, in the mean: no distance of as many samples means less.

    None where there are too few real images, or the judge knows its floor by other means.
    """
    if not isinstance(judge, ImageJudge) or len(judge.real) < 2 * samples:
        return None
    found = 0.0
    for subset in range(_SUBSETS):
        order = permutation(subset, "claims: floor", 0, len(judge.real)).numpy()
        few, rest = judge.real[order[:samples]], judge.real[order[samples:]]
        found += frechet(Moments.of(few), Moments.of(rest)) / _SUBSETS
    return found
