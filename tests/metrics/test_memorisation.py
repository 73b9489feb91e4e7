import json

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.metrics import memorisation


def _images(n, seed):
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_planted_copies_are_found_counted_and_listed_first():
    training, generated = _images(300, 0), _images(200, 1)
    planted = {5: 17, 60: 250, 199: 3}
    for place, source in planted.items():
        generated[place] = training[source]
    generated[90] = training[40] + 1e-3
    report = memorisation(generated, training, worst=4)
    assert report.copies == 3
    assert {pair.generated: pair.training for pair in report.worst} == {**planted, 90: 40}
    assert [pair.distance for pair in report.worst[:3]] == [0, 0, 0]
    assert 0 < report.worst[3].ratio < 0.01
    assert "3 are exact copies" in report.lines()[1]


def test_fresh_samples_are_as_far_as_real_ones_and_memorised_ones_are_not():
    training = _images(500, 0)
    fresh = memorisation(_images(400, 1), training)
    held = memorisation(_images(400, 1), training, held_out=_images(400, 2))
    for report in (fresh, held):
        # The quantile itself is estimated: two binomial errors of 5 % in 400, twice, are 4 %.
        assert report.share == pytest.approx(0.05, abs=0.04)
        assert report.median_ratio == pytest.approx(1, abs=0.05)
    assert (fresh.baseline, held.baseline) == ("training", "held-out")
    noisy = memorisation(training[:100] + 0.01 * _images(100, 3), training)
    assert noisy.share == 1
    assert noisy.median_ratio < 0.05
    assert noisy.copies == 0


def test_data_that_repeat_themselves_are_said_to():
    training = _images(50, 0).repeat(2, 1, 1, 1)
    report = memorisation(torch.cat([training[:10], _images(10, 1)]), training)
    assert report.real_copies == 1
    assert report.threshold == 0
    assert report.share == 0.5  # copies only: no distance but 0 is as near
    assert report.worst[0].ratio == 1
    assert report.worst[-1].ratio == float("inf")


def test_blocks_that_are_read_once_give_what_the_whole_gives():
    training, generated = _images(50, 0), _images(20, 1)
    generated[7], training[31] = training[33], training[2]  # a copy within the data, in another block
    whole = memorisation(generated, training)
    for rows in (1, 7, 50):
        assert memorisation(generated, iter(training.split(rows)), probes=training) == whole
    assert (whole.searched, whole.probes, whole.samples) == (50, 50, 20)
    assert (whole.copies, whole.worst[0].training) == (1, 33)
    assert whole.real_copies == 2 / 50
    assert "one of the 50 training samples in pixels as the nearest 5% of 50 training ones" in whole.lines()[0]


def test_probes_are_measured_against_all_others():
    training, generated = _images(50, 0), _images(20, 1)
    few = memorisation(generated, training, probes=training[:10])
    assert (few.searched, few.probes) == (50, 10)
    gaps = torch.cdist(
        training.flatten(1).double(), training.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    gaps.fill_diagonal_(torch.inf)
    # The quantile 5 % of ten numbers, lower: the least of them.
    assert few.threshold == pytest.approx(float(gaps[:10].min()))


def test_data_that_the_model_may_not_have_seen_are_not_called_training():
    report = memorisation(_images(5, 0), _images(20, 1), against="reference")
    assert (report.against, report.baseline) == ("reference", "reference")
    assert not any("training" in line for line in report.lines())
    assert "20 reference samples" in report.lines()[0]


def test_report_is_plain_data():
    report = memorisation(_images(5, 0), _images(20, 1), space="fd_x_classes", worst=2)
    data = json.loads(json.dumps(report.dump()))
    assert data["space"] == "fd_x_classes"
    assert len(data["worst"]) == 2


def test_bad_requests_are_named():
    with pytest.raises(UsageError, match="quantile is 1"):
        memorisation(_images(5, 0), _images(5, 1), quantile=1)
    with pytest.raises(UsageError, match="the training set has 1 points; at least 2"):
        memorisation(_images(5, 0), _images(1, 1))
    with pytest.raises(UsageError, match="width 16 and the training set has width 9"):
        memorisation(_images(5, 0), torch.zeros(5, 1, 3, 3))
    blocks = _images(8, 1).split(4)
    with pytest.raises(UsageError, match=r"the training set comes in blocks.*give probes or held_out"):
        memorisation(_images(5, 0), iter(blocks))
    with pytest.raises(UsageError, match=r"held_out and probes are both .*; give one"):
        memorisation(_images(5, 0), blocks[0], held_out=blocks[1], probes=blocks[0])
    with pytest.raises(UsageError, match="the reference set has 0 points; at least 2"):
        memorisation(_images(5, 0), iter(()), probes=blocks[0], against="reference")
