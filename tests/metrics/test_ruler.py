import json

import pytest

from suffuse.base.errors import RunError, UsageError
from suffuse.base.part import parse
from suffuse.metrics import CostPoint, Measurement, Ruler, Versions, dumps, loads, pareto_front, side_by_side

RULER = Ruler(
    weights="ema-0.999",
    solver="heun",
    grid="karras(18)",
    nfe=35,
    guidance="none",
    samples=1797,
    features="fd_digits_classes",
    features_hash="ab12",
    data="digits",
    reference="cd34",
    reference_count=1797,
    seed=0,
)


def _measured(value, name="fd_digits_classes", **changes):
    return Measurement(name=name, value=value, ruler=RULER.replace(**changes))


def test_differences_name_the_fields():
    assert RULER.differences(RULER.replace()) == ()
    assert RULER.differences(RULER.replace(samples=500, weights="raw")) == ("weights", "samples")
    older = RULER.versions.replace(torch="1.0")
    assert RULER.differences(RULER.replace(versions=older)) == ("versions",)


def test_every_field_of_a_ruler_counts():
    other = Ruler(
        weights="raw",
        solver="ddim",
        grid="uniform",
        nfe=10,
        guidance="cfg(2)",
        plan="deepcache",
        conditions="label",
        precision="bfloat16",
        samples=10,
        resize="bilinear",
        features="pixels",
        features_hash="x",
        data="mnist",
        reference="y",
        reference_count=3,
        seed=1,
        versions=Versions(torch="0", numpy="0", suffuse="0"),
    )
    assert RULER.differences(other) == tuple(Ruler.model_fields)


def test_declared_axes_may_vary_and_are_named():
    table = side_by_side([_measured(0.9), _measured(1.4, nfe=10, solver="euler")])
    assert table.varying == ("solver", "nfe")
    assert table.note is None
    assert [row.value for row in table.measurements] == [0.9, 1.4]


def test_other_rulers_are_refused_or_annotated_even_between_later_rows():
    rows = [_measured(0.9), _measured(0.8), _measured(0.5, samples=100, weights="raw")]
    with pytest.raises(UsageError, match=r"different rulers for fd_digits_classes: weights \(ema-0.999 \| raw\)"):
        side_by_side(rows)
    note = side_by_side(rows, mixed="annotate").note
    assert note is not None
    assert "samples (1797 | 100)" in note
    assert side_by_side(rows, allow=("samples", "weights")).varying == ("weights", "samples")
    with pytest.raises(UsageError, match=r"precision \(None \| bfloat16\)"):
        side_by_side([_measured(0.9), _measured(0.8, precision="bfloat16")])


def test_different_measures_are_not_compared_with_each_other():
    assert side_by_side([_measured(0.9), _measured(0.7, name="precision", features="pixels")]).note is None


def test_side_by_side_refuses_nonsense():
    with pytest.raises(UsageError, match="no measurements"):
        side_by_side([])
    with pytest.raises(UsageError, match="'solvers' does not exist; did you mean 'solver'"):
        side_by_side([_measured(1)], allow=("solvers",))


def test_json_round_trip():
    rows = (_measured(0.1 + 0.2), Measurement(name="recall", value=0.5, interval=(0.25, 0.75), ruler=RULER))
    assert loads(dumps(rows)) == rows


def test_broken_json_is_named():
    with pytest.raises(RunError, match=r"metrics.json is not a JSON object of measurements"):
        loads("{", "metrics.json")
    with pytest.raises(RunError, match="is not a JSON object"):
        loads("[1]")
    with pytest.raises(UsageError, match="format_version 99"):
        loads(json.dumps({"format_version": 99, "measurements": []}))
    data = json.loads(dumps([_measured(1.0)]))
    data["measurements"][0]["valeu"] = 3
    with pytest.raises(UsageError, match="measurement 0 has no key 'valeu'; did you mean 'value'"):
        loads(json.dumps(data))


def test_a_measurement_is_finite_and_inside_its_interval():
    with pytest.raises(UsageError, match="finite"):
        parse(Measurement, {"name": "x", "value": float("nan"), "ruler": RULER})
    with pytest.raises(UsageError, match=r"does not hold the value 3"):
        parse(Measurement, {"name": "x", "value": 3.0, "interval": (0.0, 1.0), "ruler": RULER})


def test_the_front_keeps_what_nothing_cheaper_beats():
    points = [
        CostPoint(name=f"{nfe}", nfe=nfe, seconds=seconds, quality=_measured(value, nfe=nfe))
        for nfe, seconds, value in [(20, 4, 1.0), (5, 3, 3.0), (10, 1, 2.0), (40, 8, 1.5), (10, 2, 2.5), (80, 9, 1.0)]
    ]
    assert [point.name for point in pareto_front(points)] == ["5", "10", "20"]
    assert [point.seconds for point in pareto_front(points, cost="seconds")] == [1, 4]
    assert [point.name for point in pareto_front(points, better="higher")] == ["5"]


def test_the_front_refuses_mixed_measures_and_rulers():
    def point(quality):
        return CostPoint(name="a", nfe=1, seconds=1, quality=quality)

    with pytest.raises(UsageError, match="of one measure, not of fd_digits_classes, precision"):
        pareto_front([point(_measured(1)), point(_measured(1, name="precision"))])
    with pytest.raises(UsageError, match="different rulers"):
        pareto_front([point(_measured(1)), point(_measured(1, samples=2))])
