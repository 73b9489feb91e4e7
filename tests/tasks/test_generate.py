"""Generating samples of a run with the labels that were asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.data import Digits, Images
from suffuse.metrics import Pixels
from suffuse.models.low_resolution import LowResolution, downsampled
from suffuse.sampling import CFG, sample
from suffuse.tasks.compare import compare, contenders
from suffuse.tasks.evaluate import evaluate
from suffuse.tasks.generate import Asked, conditions_for, generate
from suffuse.tasks.judge import ImageJudge
from suffuse.tasks.runs import OpenRun

MakeRun = Callable[..., OpenRun]


def labels(run: OpenRun, n: int, label: str | None = None, first: int = 0) -> list[int]:
    cond, _ = conditions_for(run, n, Asked(label), first)
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
    assert conditions_for(run, 3) == (None, ())
    with pytest.raises(UsageError, match="label 'cat' needs a class-conditional model"):
        conditions_for(run, 3, Asked("cat"))


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


# Super-resolution


def enlarging(make_run: MakeRun, name: str = "run", *, classes: int = 0, seed: int = 0) -> OpenRun:
    """A run that enlarges the embedded digits from 4x4."""
    conditioner = LowResolution(factor=2, classes=classes)
    names = tuple(map(str, range(classes)))
    return make_run(name, shape=(1, 8, 8), classes=names, data=Digits(), conditioner=conditioner, seed=seed)


def test_a_run_that_enlarges_starts_from_the_images_of_its_own_data(make_run: MakeRun) -> None:
    run, digits = enlarging(make_run), Digits().load()
    made = generate(run, 6, run.sampling.replace(batch=4), seed=2, first=1795)
    assert made.labels is None
    x0 = digits.batch(torch.tensor([1795, 1796, 0, 1, 2, 3])).x0
    assert x0 is not None
    low_res = Conditions.of(low_res=downsampled(x0, 2))
    given = sample(run.model, 6, solver=run.sampling.solver, grid=run.sampling.grid, cond=low_res, seed=2, first=1795)
    torch.testing.assert_close(made.x, given.x, rtol=0, atol=1e-5)  # float32 sums in another order
    alone = generate(run, 1, run.sampling, seed=2, first=1797)
    torch.testing.assert_close(alone.x, made.x[2:3], rtol=0, atol=1e-5)
    assert generate(run, 2, run.sampling.replace(guidance=CFG(scale=2))).nfe == 2 * run.sampling.grid.steps


def test_a_label_chooses_among_the_images_of_its_class(make_run: MakeRun) -> None:
    run, digits = enlarging(make_run, classes=10), Digits().load()
    assert digits.labels is not None
    made = generate(run, 12, run.sampling)
    assert made.labels is not None
    assert made.labels.tolist() == digits.labels[:12].tolist(), "an image brings its class"
    assert labels(run, 3, "7") == [7, 7, 7]
    with pytest.raises(UsageError, match="label '7' needs a class-conditional model"):
        conditions_for(enlarging(make_run, "plain"), 1, Asked("7"))


def test_without_its_data_a_run_that_enlarges_says_how_it_can_be_sampled(make_run: MakeRun, tmp_path: Path) -> None:
    conditioner, shape = LowResolution(factor=2), (1, 8, 8)
    mend = r"sample it in Python: sample\(model, n, cond=Conditions.of\(low_res=...\)\)"
    converted = make_run("converted", shape=shape, conditioner=conditioner)
    with pytest.raises(UsageError, match=f"told low_res of images, and .* does not say on which it was.*{mend}"):
        generate(converted, 1, converted.sampling)
    gone = Images(path=str(tmp_path / "gone"), size=8, channels="grey")
    moved = make_run("moved", shape=shape, data=gone, conditioner=conditioner)
    with pytest.raises(UsageError, match=f"those that .*moved was trained on cannot be loaded.*gone.*{mend}"):
        generate(moved, 1, moved.sampling)


def test_runs_that_enlarge_are_evaluated_and_compared(make_run: MakeRun) -> None:
    digits = Digits().load()
    judge = ImageJudge(digits, Pixels(digits.shape), count=100)
    runs = [enlarging(make_run, "one"), enlarging(make_run, "two", seed=1)]
    found = evaluate(runs[0], judge, runs[0].sampling, samples=12, nearest=6)
    assert found.measurements[0].ruler.samples == 12
    points = compare(contenders(runs, nfe=(2,)), judge, samples=12, seed=1).points
    assert [point.nfe for point in points] == [2, 2]
    assert points[0].quality.value != points[1].quality.value
