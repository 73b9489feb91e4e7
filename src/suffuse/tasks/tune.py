"""Tune: search the times at which a consistency model is asked again, for the smallest distance at a cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from suffuse.base.errors import UsageError
from suffuse.process import time_at
from suffuse.sampling import Consistency, ListedTimes
from suffuse.tasks.generate import generate
from suffuse.tasks.judge import Judge, ruler_of
from suffuse.tasks.presets import Preset
from suffuse.tasks.runs import OpenRun, Wanted, settle
from suffuse.training.settings import SamplingSettings

__all__ = ["Tuned", "tune_times", "tuned"]

_SCANNED = 6  # levels that are looked at before a search between the best one's neighbours
_LOWEST = 0.02  # sigma / alpha: below it a second evaluation changes nothing that can be seen


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        preset: The way of sampling.
        before: Distance of the run's own way at the same cost, on fresh noise.
        after: Distance of the way found, on the same fresh noise.
        headline: The distance.
        tried: (the way in words, distance) in the order of trial.
    """

    preset: Preset
    before: float
    after: float
    headline: str
    tried: tuple[tuple[str, float], ...]


def tune_times(
    run: OpenRun,
    judge: Judge,
    nfe: int,
    *,
    samples: int = 1000,
    seed: int = 1,
    tries: int = 14,
    on_try: Callable[[str, float], None] = lambda way, distance: None,
) -> Tuned:
    """Search the intermediate noise levels of `nfe` evaluations, one after the other from the noisiest.

    Each is looked for on a logarithmic scale: a scan, then a golden-section search between the best one's neighbours.
    All trials use the same noise, so that they differ by the levels alone; what is reported is measured on fresh noise.

    Source: song2023consistency, Section 4 (ternary search).

    Args:
        run: A consistency model.
        judge: Reference data and feature space.
        nfe: Network evaluations per sample.
        samples: How many, each time.
        seed: Of the samples while searching; the next one is that of the report.
        tries: Distances taken for each level.
        on_try: Told each trial.

    Raises:
        UsageError: The run is no consistency model, or there is nothing to search.
    """
    if run.model.estimate != "endpoint":
        raise UsageError(
            f"the times of consistency models are searched, but {run.folder} is a denoiser; search its solver and grid "
            "with tune_solver"
        )
    own = settle(run, Wanted(nfe=nfe))  # refuses what cannot be sampled, before anything is searched
    evaluations, least = nfe // own.guidance.most_evaluations, 2 * own.guidance.most_evaluations
    if evaluations < 2:
        raise UsageError(
            f"nfe is {nfe}: one evaluation starts at pure noise, so there is no time to search; use {least} or more"
        )
    if tries < _SCANNED + 1:
        raise UsageError(f"tries is {tries}; a search needs at least {_SCANNED + 1}")
    search = _Search(run, judge, samples, seed, on_try)
    levels: tuple[float, ...] = ()
    for _ in range(evaluations - 1):
        levels = (*levels, search.next_level(levels, tries))
    settings = search.settings(levels)
    before, after = (search.distance(way, seed + 1) for way in (own, settings))
    way = f"sigma/alpha {', '.join(f'{level:.3g}' for level in levels)}"
    preset = Preset(f"nfe-{nfe}", settings, {"nfe": nfe, "way": way, "levels": list(levels)})
    return tuned(preset, run, judge, samples, seed, (before, after), search.tried)


def tuned(
    preset: Preset,
    run: OpenRun,
    judge: Judge,
    samples: int,
    seed: int,
    scores: tuple[float, float],
    tried: Sequence[tuple[str, float]],
) -> Tuned:
    """What a search found, with what it was searched by written into the preset.

    Args:
        preset: The way, with what was searched.
        run, judge, samples, seed: By what.
        scores: Distances of the run's own way and of the one found, on fresh noise.
        tried: Ways in words, with their distances.
    """
    by = {"weights": run.config.weights, "measure": judge.headline, "samples": samples, "seed": seed}
    found = {**preset.found, **by, "before": scores[0], "after": scores[1]}
    return Tuned(replace(preset, found=found), *scores, judge.headline, tuple(tried))


class _Search:
    def __init__(
        self, run: OpenRun, judge: Judge, samples: int, seed: int, on_try: Callable[[str, float], None]
    ) -> None:
        self.run, self.judge, self.samples, self.seed, self.on_try = run, judge, samples, seed, on_try
        self.tried: list[tuple[str, float]] = []

    def settings(self, levels: tuple[float, ...]) -> SamplingSettings:
        """Sampling that stops at these sigma / alpha after the start."""
        path = self.run.config.path
        times = time_at(path, torch.tensor(levels, dtype=torch.float64)).tolist()
        grid = ListedTimes(listed=(path.t_max, *times))
        return self.run.sampling.replace(solver=Consistency(), grid=grid)

    def distance(self, settings: SamplingSettings, seed: int) -> float:
        made = generate(self.run, self.samples, settings, seed=seed)
        return self.judge.distance(made, ruler_of(self.run, settings, made, seed)).value

    def next_level(self, above: tuple[float, ...], tries: int) -> float:
        """The best level below those that are fixed."""
        path = self.run.config.path
        top = above[-1] if above else min(80.0, float(path.sigma(_at(path.t_max)) / path.alpha(_at(path.t_max))))
        low, high = math.log(_LOWEST), math.log(top)
        if high <= low:
            raise UsageError(f"no noise level is left to search below sigma / alpha {top:.3g}; use fewer evaluations")

        def scored(log_r: float) -> float:
            levels = (*above, math.exp(log_r))
            value = self.distance(self.settings(levels), self.seed)
            way = f"sigma/alpha {', '.join(f'{level:.3g}' for level in levels)}"
            self.tried.append((way, value))
            self.on_try(way, value)
            return value

        places = [low + (high - low) * (i + 0.5) / _SCANNED for i in range(_SCANNED)]
        scores = [scored(place) for place in places]
        best = min(range(_SCANNED), key=scores.__getitem__)
        left = places[best - 1] if best else low
        right = places[best + 1] if best + 1 < _SCANNED else high
        found = _golden(scored, left, right, tries - _SCANNED)
        place, score = min(found, key=lambda pair: pair[1])
        return math.exp(place if score < scores[best] else places[best])


def _at(t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=torch.float64)


def _golden(score: Callable[[float], float], low: float, high: float, tries: int) -> list[tuple[float, float]]:
    """Golden-section search of a minimum: the places tried, with their scores."""
    share = (math.sqrt(5) - 1) / 2
    a, b = high - share * (high - low), low + share * (high - low)
    tried = [(a, score(a))]
    if tries > 1:
        tried.append((b, score(b)))
    at_a, at_b = tried[0][1], tried[-1][1]
    while len(tried) < tries:
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - share * (high - low)
            at_a = score(a)
            tried.append((a, at_a))
        else:
            low, a, at_a = a, b, at_b
            b = low + share * (high - low)
            at_b = score(b)
            tried.append((b, at_b))
    return tried
