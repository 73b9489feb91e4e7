"""The judge and the evaluation: which measures are taken, against what, and what is refused before any work."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import ot  # noqa: F401  # imported here, because its import draws from Python's global generator
import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.data import DataPart, Dataset, Digits, GaussianMixture, Images, Rings, Shapes
from suffuse.metrics import Pixels, Ruler
from suffuse.tasks import judge as judging
from suffuse.tasks.evaluate import evaluate, figures_table, read_evaluation
from suffuse.tasks.generate import Generated, generate
from suffuse.tasks.judge import ImageJudge, PointJudge, judge_of, ruler_of
from suffuse.tasks.report import write_report
from suffuse.tasks.runs import OpenRun
from suffuse.training import extractor

MakeRun = Callable[..., OpenRun]
MakePictures = Callable[..., Dataset]
SHAPE = (3, 8, 8)


def as_samples(dataset: Dataset, count: int) -> Generated:
    """Training pictures that pose as samples."""
    batch = dataset.batch(torch.arange(count))
    assert batch.x0 is not None
    labels = batch.cond.values["label"] if dataset.labels is not None else None
    return Generated(batch.x0, labels, dataset.classes, nfe=1.0, seconds=1.0)


def test_real_data_judged_as_samples_are_at_no_distance_and_copies(
    make_run: MakeRun, make_pictures: MakePictures
) -> None:
    dataset = make_pictures()
    judge = ImageJudge(dataset, Pixels(SHAPE), count=100)
    made, run = as_samples(dataset, len(dataset)), make_run()
    made = replace(made, x=made.x + 0.4 / 127.5)  # what nobody sees: it rounds to the same eight bits
    rows = {row.name: row.value for row in judge.measure(made, ruler_of(run, run.sampling, made, seed=0))}
    # The mean over 24 pictures of 192 pixels in [-1, 1] rounds at 1e-6; squares and roots of variances stay below 1e-4.
    assert rows["pixels"] == pytest.approx(0, abs=1e-4)
    assert (rows["precision"], rows["recall"], rows["coverage"]) == (1, 1, 1)
    assert "labels_right" not in rows, "pixels read no labels"
    report = judge.memorised(made, nearest=10)
    assert (report.samples, report.copies, report.share) == (10, 10, 1.0)
    assert all(pair.generated == pair.training for pair in report.worst)


def test_labels_are_judged_only_by_a_network_of_the_same_classes(
    make_run: MakeRun, make_pictures: MakePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Untrained features have all that matters here: what they would have been trained on.
    monkeypatch.setattr(extractor, "_fit", lambda dataset, plan, index, progress: extractor._network(plan))
    run = make_run(classes=("cat", "dog"))
    made = generate(run, 8, run.sampling)

    def names(dataset: Dataset) -> set[str]:
        judge = ImageJudge(dataset, extractor.train_extractor(dataset, cache=None), count=100)
        return {row.name for row in judge.measure(made, ruler_of(run, run.sampling, made, seed=0))}

    assert "labels_right" in names(make_pictures())
    assert "labels_right" not in names(make_pictures(classes=("cow", "hen"))), "label 0 is another animal there"
    assert "labels_right" not in names(make_pictures(classes=()))


def test_evaluation_writes_the_same_figures_every_time(make_run: MakeRun, make_pictures: MakePictures) -> None:
    run, judge = make_run(), ImageJudge(make_pictures(), Pixels(SHAPE), count=100)
    assert read_evaluation(run.folder) is None
    found = [evaluate(run, judge, run.sampling.replace(batch=batch), samples=12, nearest=6) for batch in (12, 12, 5)]
    kept = read_evaluation(run.folder)
    assert kept == json.loads(json.dumps(found[2].dump()))
    assert found[0].measurements == found[1].measurements
    assert found[0].memorised == found[1].memorised
    for row, other in zip(found[0].measurements, found[2].measurements, strict=True):
        # Pictures agree to 1e-5 in any batch; what is judged has 8 bits, and a pixel may fall the other way.
        assert other.value == pytest.approx(row.value, rel=1e-2), row.name
    assert {path.name for path in (run.folder / "evaluation").iterdir()} == {
        "figures.json",
        "samples.png",
        "nearest.png",
    }
    card = (run.folder / "README.md").read_text()
    assert card.count("## Figures") == 1
    assert figures_table(found[2]) in card


def test_another_seed_is_another_figure(make_run: MakeRun, make_pictures: MakePictures) -> None:
    run, judge = make_run(), ImageJudge(make_pictures(), Pixels(SHAPE), count=100)
    first, other = (evaluate(run, judge, run.sampling, samples=8, seed=seed).measurements[0] for seed in (1, 2))
    assert first.value != other.value
    assert first.ruler.differences(other.ruler) == ("seed",)


def test_data_that_repeat_themselves_do_not_break_the_report(make_run: MakeRun, make_pictures: MakePictures) -> None:
    # Copies are at distance 0, so that ratios to it are infinite, which JSON does not have.
    once = make_pictures(8)
    twice = Dataset.of("twice", np.concatenate([once.values] * 2))
    run = make_run()
    found = evaluate(run, ImageJudge(twice, Pixels(SHAPE), count=100), run.sampling, samples=8)
    assert found.memorised is not None
    assert found.memorised.median_ratio == float("inf")
    kept = read_evaluation(run.folder)
    assert kept is not None
    assert kept["memorisation"]["median_ratio"] is None
    assert kept["memorisation"]["worst"][0]["ratio"] is None
    assert "infinite: the data repeat" in write_report(run.folder).read_text()


def test_points_are_judged_by_the_density_that_was_asked_for(make_run: MakeRun) -> None:
    mixture = GaussianMixture(count=600)
    run = make_run(shape=(2,), data=mixture)
    judge = judge_of(run, samples=500)
    assert isinstance(judge, PointJudge)
    ideal = Generated(mixture.sample(500, seed=3), None, (), nfe=1.0, seconds=1.0)
    ruler = ruler_of(run, run.sampling, ideal, seed=3)
    own = {row.name: row for row in judge.measure(ideal, ruler)}
    assert set(own) == {"wasserstein", "sliced_wasserstein", "kl_divergence"}
    assert judge.floor is not None
    # Both are distances between two draws of one density, of 500 to 600 points.
    assert own["wasserstein"].value == pytest.approx(judge.floor, rel=1)
    other = judge_of(run, samples=500, source=Rings(count=600)).distance(ideal, ruler)
    assert (own["wasserstein"].ruler.data, other.ruler.data) == ("mixture", "rings")
    assert other.value > 3 * own["wasserstein"].value


def test_points_are_evaluated_with_a_plot(make_run: MakeRun) -> None:
    run = make_run(shape=(2,), data=GaussianMixture(count=100))
    found = evaluate(run, judge_of(run, samples=50), run.sampling, samples=50)
    assert found.memorised is None
    assert (run.folder / "evaluation" / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert not (run.folder / "evaluation" / "nearest.png").exists()
    assert "wasserstein" in figures_table(found)


def test_what_cannot_be_judged_is_refused_before_features_are_trained(
    make_run: MakeRun, make_pictures: MakePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worked(*_: object, **__: object) -> NoReturn:
        raise AssertionError("features were trained for nothing")

    monkeypatch.setattr(judging, "train_extractor", worked)
    converted, trained = make_run("converted"), make_run("trained", data=Digits())
    with pytest.raises(UsageError, match="converted does not say what it was trained on; give --data"):
        judge_of(converted, samples=10)
    with pytest.raises(UsageError, match=r"samples of \(3, 8, 8\), but the data have \(1, 8, 8\)"):
        judge_of(trained, samples=10)
    with pytest.raises(UsageError, match="n is 5, too few to be judged; ask for at least 6"):
        judge_of(trained, samples=5)
    with pytest.raises(UsageError, match="data 'shapes8' has 5 images, too few to judge by; give at least 6"):
        judge_of(converted, samples=10, source=Shapes(size=8, count=5))


def test_features_that_had_to_be_trained_anew_are_told(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    pixels = Pixels(SHAPE)
    monkeypatch.setattr(pixels, "note", "kept features were damaged", raising=False)
    monkeypatch.setattr(pixels, "to", lambda device: pixels, raising=False)
    monkeypatch.setattr(judging, "train_extractor", lambda dataset, cache: pixels)
    judge_of(make_run(), samples=10, source=Shapes(size=8, count=12), cache=tmp_path, note=told.append)
    assert told[-1] == "kept features were damaged"


def test_reference_is_a_fixed_choice_of_at_most_so_many(make_pictures: MakePictures) -> None:
    dataset = make_pictures()
    first, again = (ImageJudge(dataset, Pixels(SHAPE), count=10) for _ in range(2))
    assert first.index.tolist() == again.index.tolist()
    assert len(set(first.index.tolist())) == 10
    assert first.floor == again.floor


def test_copies_are_found_among_all_training_images_not_only_among_the_reference(
    make_run: MakeRun, make_pictures: MakePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_pictures()
    monkeypatch.setattr(judging, "_NUMBERS", 5 * 3 * 8 * 8)  # blocks of five of the 24 pictures
    monkeypatch.setattr(judging, "_PROBES", 9)
    judge, run = ImageJudge(dataset, Pixels(SHAPE), count=10), make_run()
    made = generate(run, 12, run.sampling)
    missed = next(i for i in range(24) if i not in judge.index.tolist())
    planted = {3: missed, 7: 23}
    for place, source in planted.items():
        picture = dataset.batch(torch.tensor([source])).x0
        assert picture is not None
        made.x[place] = picture[0] - 0.4 / 127.5
    report = judge.memorised(made, nearest=10)
    assert (report.copies, report.samples, report.searched, report.probes) == (2, 10, 24, 9)
    assert {pair.generated: pair.training for pair in report.worst[:2]} == planted


def test_only_a_run_s_own_data_are_called_training(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "_fit", lambda dataset, plan, index, progress: extractor._network(plan))
    own = Shapes(size=8, count=12)
    run = make_run(data=own)
    for source, against in ((None, "training"), (own, "training"), (Shapes(size=8, count=13), "reference")):
        judge = judge_of(run, samples=6, source=source)
        assert isinstance(judge, ImageJudge)
        found = evaluate(run, judge, run.sampling, samples=6)
        assert found.memorised is not None
        assert found.memorised.against == against
        page = write_report(run.folder).read_text()
        assert f"its nearest {against} image" in page
        assert ("training image" in page) == (against == "training")


def test_copies_that_an_old_evaluation_could_not_see_are_not_told(make_run: MakeRun) -> None:
    run = make_run()
    (run.folder / "evaluation").mkdir()
    path = run.folder / "evaluation" / "figures.json"
    path.write_text(json.dumps({"format_version": 1, "seconds": 2.0, "memorisation": {"copies": 0}}))
    assert read_evaluation(run.folder) == {"format_version": 1, "seconds": 2.0, "memorisation": None}
    path.write_text(json.dumps({"format_version": 3}))
    with pytest.raises(UsageError, match="format_version 3, written by a newer suffuse"):
        read_evaluation(run.folder)


def test_the_feature_network_runs_where_the_model_is(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "_fit", lambda dataset, plan, index, progress: extractor._network(plan))
    places: list[torch.device] = []
    original = extractor.TrainedFeatures.to
    monkeypatch.setattr(
        extractor.TrainedFeatures, "to", lambda self, device: (places.append(device), original(self, device))[1]
    )
    run = make_run()
    judge_of(run, samples=6, source=Shapes(size=8, count=12))
    assert places == [run.model.device]


def test_inception_is_taken_only_when_it_can_be(make_run: MakeRun, tmp_path: Path) -> None:
    run, pictures = make_run(), Shapes(size=8, count=12)

    def told(features: str, run: OpenRun = run, source: DataPart = pictures) -> str:
        with pytest.raises(UsageError) as caught:
            judge_of(run, samples=10, source=source, features=features, cache=tmp_path)
        return str(caught.value)

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "torchvision", None)
        assert "pip install 'suffuse[inception]'" in told("inception")
    with pytest.MonkeyPatch.context() as patched:
        module = types.ModuleType("torchvision.models.inception")
        patched.setattr(module, "Inception3", None, raising=False)
        for name in ("torchvision", "torchvision.models"):
            patched.setitem(sys.modules, name, types.ModuleType(name))
        patched.setitem(sys.modules, "torchvision.models.inception", module)
        assert f"weights {tmp_path / 'here.pth'} are not there" in told(f"inception:{tmp_path / 'here.pth'}")
    assert "feature space 'incepton' does not exist; did you mean 'inception'?" in told("incepton")
    points = make_run("points", shape=(2,))
    assert "features 'inception' are of images, but 'rings' are points" in told("inception", points, Rings())
    assert not list(tmp_path.glob("*-features-*")), "nothing was trained"


def test_a_run_whose_data_are_elsewhere_asks_for_others(make_run: MakeRun, tmp_path: Path) -> None:
    there = tmp_path / "somebody" / "else"
    run = make_run(data=Images(path=there, size=8))
    with pytest.raises(UsageError, match=f"cannot be loaded .*{there}.*; give --data$"):
        judge_of(run, samples=10)
    with pytest.raises(UsageError) as caught:
        judge_of(run, samples=10, source=Images(path=tmp_path / "mistyped", size=8))
    assert "give --data" not in str(caught.value), "it was given"


def test_precision_looks_at_all_classes_of_a_large_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class by class, as folders are read; a perfect generator of both classes."""
    monkeypatch.setattr(judging, "_NEIGHBOURS", 60)
    values = np.zeros((400, 8, 8, 3), np.uint8)
    values[200:] = 200
    values += np.random.default_rng(0).integers(0, 40, values.shape, dtype=np.uint8)
    dataset = Dataset.of("two", values, labels=np.repeat([0, 1], 200), classes=("dark", "light"))
    found = ImageJudge(dataset, Pixels((3, 8, 8)), count=400)
    again = values[np.random.default_rng(1).permutation(400)[:100]].transpose(0, 3, 1, 2)
    made = Generated(torch.from_numpy(again.astype(np.float32) / 127.5 - 1), None, (), 1.0, 1.0)
    measured = {
        item.name: item.value
        for item in found.measure(made, Ruler(samples=100, data="", reference="", reference_count=1))
    }
    assert measured["precision"] > 0.8
    assert measured["coverage"] > 0.5
