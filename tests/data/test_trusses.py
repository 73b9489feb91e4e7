"""Trusses: designs by a rule, the same at every size, and the exact judge of other designs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.data import Trusses, to_uint8
from suffuse.data.trusses import design_errors


def solid(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0] > 127


def test_the_volume_is_as_asked():
    part = Trusses(count=50)
    found = solid(part.load().values).mean(axis=(1, 2))
    asked = part.asked().volume
    assert (found >= asked - 1 / 1024).all()
    assert (found - asked).mean() < 2 / 1024
    assert (found - asked).max() < 20 / 1024, "only pixels that are as near as the last one are more"


def test_designs_hold_the_load_and_stand_on_their_supports():
    part = Trusses(count=30, size=64)
    designs, asked = solid(part.load().values), part.asked()
    for design, load, supports in zip(designs, asked.load, asked.supports, strict=True):
        assert design[int(load[1] * 64), int(load[0] * 64)]
        assert all(design[int(height * 64), int(0.04 * 64)] for height in supports)
        assert not design[:, int(load[0] * 64) + 8 :].any(), "nothing stands beyond the load"


def test_small_designs_are_means_of_the_large_ones():
    large, small = Trusses(count=20, size=32).load(), Trusses(count=20, size=8, fine=4).load()
    means = large.values.reshape(20, 8, 4, 8, 4).mean(axis=(2, 4))
    assert np.abs(means - small.values[..., 0]).max() <= 0.5
    pictures = large.companions["picture"].table.reshape(20, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    assert np.abs(pictures - small.companions["picture"].table).max() <= 0.5


def test_a_design_is_the_same_whatever_the_count():
    few, many = Trusses(count=3).load(), Trusses(count=9).load()
    assert np.array_equal(few.values, many.values[:3])
    assert not np.array_equal(few.values, Trusses(count=3, seed=1).load().values)


def test_the_picture_says_what_is_asked():
    part = Trusses(count=4, size=64)
    batch = part.load().batch(torch.arange(4))
    picture = (batch.cond.values["picture"] + 1) / 2
    assert picture.shape == (4, 3, 64, 64)
    torch.testing.assert_close(
        picture[:, 2].mean((1, 2)) * 0.25, torch.from_numpy(part.asked().volume).float(), atol=5e-4, rtol=0
    )
    centre = torch.nonzero(picture[0, 0] > 0.5).float().mean(0) / 64
    torch.testing.assert_close(centre.flip(0).double(), torch.from_numpy(part.asked().load[0]), atol=0.02, rtol=0)
    assert (picture[0, 1] > 0.5).sum() > 10


def test_the_judge_knows_right_designs_and_wrong_ones():
    part = Trusses(count=40)
    right, volume = part.load().values, part.asked().volume
    same = design_errors(right, right, volume)
    assert (same.overlap, same.volume < 0.002) == (1.0, True)
    blank = design_errors(np.zeros_like(right), right, volume)
    assert blank.overlap == 0
    assert blank.volume == pytest.approx(float(np.median(volume)))
    others = design_errors(np.roll(right, 1, axis=0), right, volume)
    assert 0.05 < others.overlap < 0.6
    made = to_uint8(torch.from_numpy(right).permute(0, 3, 1, 2) / 127.5 - 1)
    assert design_errors(made, right, volume).overlap == 1.0
    with pytest.raises(UsageError, match="give one of each for every design"):
        design_errors(right[:3], right, volume)
