"""Companions: conditions that travel with their samples through splits, shuffles and mirrors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.data import Dataset
from suffuse.data.companion import Companion

PICTURES = np.arange(6 * 2 * 2 * 1, dtype=np.uint8).reshape(6, 2, 2, 1)


def dataset() -> Dataset:
    plain = Dataset.of("made", np.arange(6 * 4, dtype=np.float32).reshape(6, 1, 2, 2), latents=True)
    text = Companion(np.array([[1, 2], [3, 4]]), np.array([0, 1, 0, 1, 0, 1]), np.array([True] * 5 + [False]))
    return plain.beside(text=text, image=Companion(PICTURES, np.arange(6)))


def test_they_come_with_their_samples() -> None:
    batch = dataset().batch(torch.tensor([5, 0]))
    assert batch.cond.values["text"].tolist() == [[3, 4], [1, 2]]
    assert batch.cond.present["text"].tolist() == [False, True]
    assert batch.cond.values["image"].shape == (2, 1, 2, 2)
    assert batch.cond.values["image"][1, 0, 0].tolist() == pytest.approx([-1, 1 / 127.5 - 1])


def test_they_stay_with_their_samples_in_splits() -> None:
    train, held = dataset().split(0.5, seed=0)
    for part in (train, held):
        batch = part.batch(torch.arange(len(part)))
        assert batch.x0 is not None
        numbers = (batch.x0[:, 0, 0, 0] / 4).int().tolist()
        assert batch.cond.values["text"][:, 0].tolist() == [1 if number % 2 == 0 else 3 for number in numbers]
        seen = ((batch.cond.values["image"][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        assert seen == [4 * number for number in numbers]


def test_pictures_are_mirrored_with_the_latents_of_mirrored_pictures() -> None:
    from dataclasses import replace

    plain = dataset()
    index, flip = torch.arange(2), torch.tensor([True, False])
    with pytest.raises(UsageError, match="are no pictures and cannot be mirrored"):
        plain.batch(index, flip)
    batch = replace(plain, mirrored=-plain.store).batch(index, flip)
    assert batch.x0 is not None
    assert batch.x0[0].tolist() == (-torch.from_numpy(plain.store[0])).tolist()
    assert batch.x0[1].tolist() == plain.store[1].tolist()
    straight = plain.batch(index).cond.values["image"]
    assert torch.equal(batch.cond.values["image"][0], straight[0].flip(2))
    assert torch.equal(batch.cond.values["image"][1], straight[1])


def test_there_is_one_for_each_sample() -> None:
    with pytest.raises(UsageError, match="condition 'text' has 2 values for 6 samples"):
        dataset().beside(text=Companion(np.zeros((2, 1)), np.arange(2)))
