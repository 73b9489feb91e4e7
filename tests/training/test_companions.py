"""Captions as companions: read as one over several shapes, and counted once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from suffuse.data import Dataset
from suffuse.models.text import Text
from suffuse.training.companions import accompanied, settled

CPU = torch.device("cpu")


def test_captions_of_several_shapes_are_read_as_one_and_counted_once(tmp_path: Path) -> None:
    long = "a red circle left of a blue square"
    wide = Dataset.of("wide", np.zeros((3, 4, 8, 3), np.uint8), captions=("a circle", "", long))
    tall = Dataset.of("tall", np.zeros((2, 8, 4, 3), np.uint8), captions=(long, "a circle"))
    every = Dataset.of("every", np.zeros((5, 8, 8, 3), np.uint8), captions=("a circle", "", long, long, "a circle"))
    text = settled(Text(width=8, depth=1, heads=2, length=6, most=270), every, tmp_path, CPU)
    said: list[str] = []
    one, two = accompanied([(wide, wide), (tall, tall)], text, tmp_path, CPU, said.append)
    assert len(said) == 2
    assert said[0] == "1 of 5 captions are empty, which stands for no text"
    assert said[1].startswith(f"2 of 5 captions are longer than 6 tokens and lose their end ('{long}')")
    first, second = one.batch(torch.arange(3)).cond, two.batch(torch.arange(2)).cond
    assert first.present["caption"].tolist() == [True, False, True]
    assert torch.equal(first.values["caption"][[0, 2]], second.values["caption"][[1, 0]])
    (alone,) = accompanied([(tall, tall)], text, tmp_path, CPU)
    assert torch.equal(alone.batch(torch.arange(2)).cond.values["caption"], second.values["caption"])
