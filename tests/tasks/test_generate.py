"""Generating samples of a run with the labels that were asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.tasks.generate import generate, labels_for
from suffuse.tasks.runs import OpenRun

MakeRun = Callable[..., OpenRun]


def labels(run: OpenRun, *options: object) -> list[int]:
    cond = labels_for(run, *options)  # type: ignore[arg-type]  # the options of `labels_for`
    assert cond is not None
    assert bool(cond.present["label"].all())
    return list(cond.values["label"].tolist())


def test_a_label_is_a_name_or_a_number_and_a_name_comes_first(make_run: MakeRun) -> None:
    run = make_run(classes=("cat", "0", "dog"))
    assert labels(run, 4) == [0, 1, 2, 0]
    assert labels(run, 4, None, 5) == [2, 0, 1, 2], "sample 5 has the label that it has in any batch"
    assert labels(run, 2, "dog") == [2, 2]
    assert labels(run, 2, "2") == [2, 2]
    assert labels(run, 2, "0") == [1, 1], "a class is called 0, and it is not the first"
    for wrong in ("3", "-1", "dogs"):
        with pytest.raises(UsageError, match=f"class '{wrong}' does not exist") as caught:
            labels(run, 1, wrong)
        assert "there are: 0, cat, dog" in str(caught.value)
    assert "did you mean 'dog'?" in str(caught.value)


def test_a_model_without_classes_has_no_labels(make_run: MakeRun) -> None:
    run = make_run()
    assert labels_for(run, 3) is None
    with pytest.raises(UsageError, match="label 'cat' needs a class-conditional model"):
        labels_for(run, 3, "cat")


def test_half_precision_reaches_the_network_and_only_it(make_run: MakeRun) -> None:
    run = make_run()
    exact = generate(run, 2, run.sampling)
    half = generate(run, 2, run.sampling.replace(precision="bfloat16"))
    assert half.x.dtype == torch.float32
    assert not torch.equal(half.x, exact.x)
    torch.testing.assert_close(half.x, exact.x, rtol=0.1, atol=0.1)  # bfloat16 has three digits


def test_samples_carry_their_labels_and_cost(make_run: MakeRun) -> None:
    run = make_run(classes=("cat", "dog"))
    done: list[int] = []
    settings = run.sampling.replace(batch=2)
    made = generate(run, 5, settings, first=1, on_samples=done.append)
    assert done == [2, 4, 5]
    assert made.labels is not None
    assert made.labels.tolist() == [1, 0, 1, 0, 1]
    assert made.classes == ("cat", "dog")
    assert made.nfe == settings.grid.steps
    assert made.x.shape == (5, 3, 8, 8)
    whole = generate(run, 6, run.sampling)
    torch.testing.assert_close(made.x, whole.x[1:], rtol=0, atol=1e-5)  # float32 sums in another order
