"""The report: one file that needs no other, in which names and texts are never markup."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from suffuse.data import Dataset, Digits, Images
from suffuse.metrics import Pixels
from suffuse.tasks.compare import compare, contenders, save_comparison
from suffuse.tasks.evaluate import evaluate
from suffuse.tasks.judge import ImageJudge
from suffuse.tasks.report import write_report
from suffuse.tasks.runs import OpenRun
from suffuse.training.metrics_log import MetricsLog

MakeRun = Callable[..., OpenRun]
MakePictures = Callable[..., Dataset]
SHAPE = (3, 8, 8)
HOSTILE = "</td></pre><script>alert(1)</script><img src=x onerror='alert(2)'>\"&"


class Page(HTMLParser):
    """Tags, pictures and text of a page; attributes that could act are collected."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[bytes] = []
        self.acting: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "src":
                head, data = (value or "").split(",", 1)
                assert head == "data:image/png;base64", "a picture from elsewhere"
                self.pictures.append(base64.b64decode(data))
            elif name.startswith("on") or name == "href":
                self.acting.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        self.text += data


def full_report(run: OpenRun, dataset: Dataset) -> Page:
    """All sections: evaluation, comparison, memorisation, loss, recipe."""
    judge = ImageJudge(dataset, Pixels(SHAPE), count=100)
    evaluate(run, judge, run.sampling, samples=8, nearest=4)
    save_comparison(compare(contenders([run], nfe=(1, 2)), judge, samples=8), run.folder)
    log = MetricsLog(run.folder)
    for step in (1, 2):
        log.write({"step": step, "images": 8 * step, "loss": 1 / step})
    log.close()
    path = write_report(run.folder)
    assert path == run.folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_report_holds_its_pictures(make_run: MakeRun, make_pictures: MakePictures) -> None:
    run = make_run(data=Digits())
    page = full_report(run, make_pictures())
    names = ("evaluation/samples.png", "comparison.png", "comparison-samples.png", "evaluation/nearest.png", "loss.png")
    assert page.pictures == [(run.folder / name).read_bytes() for name in names]
    for heading in ("Samples", "Figures", "Quality against cost", "Memorisation", "Training", "Recipe"):
        assert heading in page.text
    assert not {"script", "link", "iframe"} & set(page.tags)
    figures = json.loads((run.folder / "evaluation" / "figures.json").read_text())
    for row in figures["measurements"]:
        assert f"{row['name']}{row['value']:.4g}" in page.text
    assert "2 steps, 16 images." in page.text
    assert "8 samples of seed 1; features pixels; reference pets" in page.text, "a comparison carries its ruler too"


def test_nothing_that_a_user_names_becomes_markup(make_run: MakeRun, make_pictures: MakePictures) -> None:
    name = HOSTILE.replace("/", "_")
    run = make_run(name, classes=(HOSTILE, "b"), data=Images(path=Path(HOSTILE)), about=HOSTILE)
    page = full_report(run, make_pictures(classes=(HOSTILE, "b"), name=HOSTILE))
    assert not page.acting
    assert "script" not in page.tags
    assert page.tags.count("img") == len(page.pictures) == 5
    assert name in page.text, "the folder's name, as it is"
    assert HOSTILE in page.text, "the data's name, as it is"


def test_an_empty_run_has_a_report_of_what_there_is(make_run: MakeRun) -> None:
    page = Page(write_report(make_run("bare").folder).read_text(encoding="utf-8"))
    assert "bare" in page.text
    assert not page.pictures
    assert "h2" not in page.tags


def test_pictures_beside_each_other_are_a_sample_and_its_nearest(
    make_run: MakeRun, make_pictures: MakePictures
) -> None:
    run, dataset = make_run(), make_pictures()
    found = evaluate(run, ImageJudge(dataset, Pixels(SHAPE), count=100), run.sampling, samples=8, nearest=4)
    assert found.memorised is not None
    with Image.open(run.folder / "evaluation" / "nearest.png") as sheet:
        pixels = np.asarray(sheet)
    for place, pair in enumerate(found.memorised.worst):
        left = (2 * place + 1) * (8 * 8 + 4)  # enlarged eight times, four pixels apart
        shown = pixels[0:64:8, left : left + 64 : 8]
        assert (shown == dataset.values[pair.training]).all()
