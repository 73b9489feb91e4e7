"""Loader: a function of the step, the same for one process or several, prefetched without changing anything."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.data import Dataset, GaussianMixture, Loader
from suffuse.process import OptimalTransport


def numbered(count: int) -> Dataset:
    """Pictures that differ from their mirror image."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
    return Dataset.of("numbered", pixels, labels=np.arange(count) % 2, classes=("even", "odd"))


def loader(count: int = 10, batch: int = 4, **settings) -> Loader:
    return Loader(numbered(count), **{"batch": batch, "seed": 0, **settings})


def test_every_epoch_sees_every_sample_once_in_a_new_order():
    found = torch.cat([loader(10, 4).index(step) for step in range(5)])
    first, second = found[:10].tolist(), found[10:].tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first != torch.cat([loader(10, 4, seed=1).index(step) for step in range(3)])[:10].tolist()


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("count", [3, 10])
def test_several_processes_see_together_what_one_sees(world, count):
    """Also in batches over the end of an epoch and, with three samples, over several epochs."""
    for step in (0, 1, 2, 7):
        one = loader(count, 8, flip=True)
        parts = [loader(count, 8, flip=True, rank=rank, world=world) for rank in range(world)]
        assert torch.equal(one.at(step).x0, torch.cat([part.at(step).x0 for part in parts]))
        assert torch.equal(one.at(step).index, torch.cat([part.at(step).index for part in parts]))
        noise = torch.cat([part.draws(step).normal("noise", (2,)) for part in parts])
        assert torch.equal(one.draws(step).normal("noise", (2,)), noise)
        assert parts[0].draws(step).total == 8


def test_a_set_smaller_than_a_batch_comes_round_again():
    index = loader(3, 8).index(0)
    assert np.bincount(index.numpy()).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    assert loader(1, 4).index(5).tolist() == [0, 0, 0, 0]


def test_flips_are_about_half_and_new_each_time():
    data = numbered(64)
    plain, mirrored = Loader(data, batch=64, seed=0), Loader(data, batch=64, seed=0, flip=True)
    flips = []
    for step in range(20):
        was = (mirrored.at(step).x0 == plain.at(step).x0).flatten(1).all(1)
        assert torch.equal(mirrored.at(step).x0[~was], plain.at(step).x0[~was].flip(3))
        flips.append(~was[plain.index(step).argsort()])
    share = torch.stack(flips).float()
    assert abs(share.mean() - 0.5) < 0.06  # 1280 coins: 4 standard deviations
    assert not torch.equal(flips[0], flips[1])


def test_a_stream_is_the_steps_in_order_from_anywhere():
    batches = loader()
    with batches.stream(3) as stream:
        for step in range(3, 12):
            batch = next(stream)
            assert torch.equal(batch.x0, batches.at(step).x0)
            assert torch.equal(batch.cond.values["label"], batches.at(step).cond.values["label"])


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("suffuse-loader")]


def test_a_stream_ends_its_thread_however_it_is_left():
    with loader().stream() as stream:
        next(stream)
        assert threads()
    assert not threads()
    with pytest.raises(KeyboardInterrupt), loader().stream():
        raise KeyboardInterrupt
    assert not threads()

    def consumer():
        with loader().stream() as stream:
            yield from stream

    using = consumer()
    next(using)
    using.close()
    assert not threads()


def test_an_error_in_the_thread_reaches_the_consumer_at_its_step(monkeypatch):
    batches = loader()
    honest = Loader.at

    def failing(self, step):
        if step == 2:
            raise RuntimeError("the disk is gone")
        return honest(self, step)

    monkeypatch.setattr(Loader, "at", failing)
    with batches.stream() as stream:
        next(stream)
        next(stream)
        with pytest.raises(RuntimeError, match="the disk is gone"):
            next(stream)
    assert not threads()


def test_wrong_use_is_refused():
    with pytest.raises(
        UsageError, match=r"batch 10 cannot be shared evenly by 4 processes; use a multiple of 4, such as 12"
    ):
        loader(batch=10, world=4)
    with pytest.raises(UsageError, match="rank 2 is not one of 2 processes"):
        loader(batch=4, rank=2, world=2)
    with pytest.raises(UsageError, match="batch is 0"):
        loader(batch=0)
    with pytest.raises(UsageError, match="data 'mixture' are no pictures and cannot be mirrored"):
        Loader(GaussianMixture(count=8).load(), batch=4, seed=0, flip=True)


def test_a_coupling_minds_classes_only_where_the_model_is_told_them() -> None:
    """A model without classes gets the cheapest pairs of the whole batch, whatever labels the data have."""
    labels = np.arange(40) % 2
    data = Dataset.of("two", np.random.default_rng(0).normal(size=(40, 3)), labels=labels, classes=("a", "b"))

    def cost(**options: Any) -> float:
        batch = Loader(data, batch=40, seed=0, **options).at(0)
        assert batch.x0 is not None
        assert batch.eps is not None
        return float((batch.x0 - batch.eps).square().sum())

    within, whole = (cost(coupling=OptimalTransport(), labelled=labelled) for labelled in (True, False))
    assert whole < within
    assert whole == pytest.approx(cost(coupling=OptimalTransport(within="batch")))
