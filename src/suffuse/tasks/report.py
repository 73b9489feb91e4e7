"""The report: one HTML file with the pictures inside, that opens anywhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suffuse.base import files
from suffuse.tasks.compare import SHEET, Compared, comparison_rows, read_comparison, ruler_words
from suffuse.tasks.evaluate import FOLDER, read_evaluation
from suffuse.tasks.plots import loss_curve
from suffuse.training.metrics_log import read_metrics

__all__ = ["write_report"]

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
h1,h2{line-height:1.2} img{max-width:100%;border:1px solid #ddd;image-rendering:pixelated}
img.plot{image-rendering:auto;border:0} table{border-collapse:collapse}
td,th{border:1px solid #ccc;padding:.25rem .7rem}
td{font-variant-numeric:tabular-nums} pre{background:#f5f5f5;padding:1rem;overflow:auto;font-size:13px}
.ruler{color:#555;font-size:14px}
"""


def write_report(folder: Path) -> Path:
    """Write `report.html` from what the run's folder holds: samples, figures, comparison, loss, recipe.

    Returns:
        The file.
    """
    rows = read_metrics(folder)
    parts = [f"<h1>{html.escape(folder.resolve().name)}</h1>"]
    found = read_evaluation(folder)
    parts += _samples(folder)
    if found:
        parts += _figures(found)
    compared = read_comparison(folder)
    if compared:
        parts += _comparison(compared, folder)
    if found and found.get("memorisation"):
        parts += _memorisation(found["memorisation"], folder)
    if rows:
        loss_curve(rows, folder / "loss.png")
        parts += ["<h2>Training</h2>", _picture(folder / "loss.png", "loss over steps", "plot")]
        parts.append(f"<p>{rows[-1]['step']} steps, {rows[-1]['images']} images.</p>")
    recipe = folder / "recipe.yaml"
    if recipe.is_file():
        parts.append(f"<h2>Recipe</h2><pre>{html.escape(recipe.read_text(encoding='utf-8'))}</pre>")
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
        "content='width=device-width'><title>suffuse report</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    target = folder / "report.html"
    files.write_text(target, page)
    return target


def _picture(path: Path, alt: str, kind: str = "") -> str:
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<p><img class='{kind}' alt='{html.escape(alt)}' src='data:image/png;base64,{data}'></p>"


def _samples(folder: Path) -> list[str]:
    picture = _picture(folder / FOLDER / "samples.png", "samples")
    return ["<h2>Samples</h2><p>The first ones of the evaluation, not picked.</p>", picture] if picture else []


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _figures(found: dict[str, Any]) -> list[str]:  # Any: JSON values
    rows: list[tuple[object, ...]] = [(item["name"], f"{item['value']:.4g}") for item in found["measurements"]]
    if found["floor"] is not None:
        name = found["measurements"][0]["name"]
        rows.append((f"{name}, two halves of the real data, half the count", f"{found['floor']:.4g}"))
    ruler = found["measurements"][0]["ruler"]
    versions = ruler.pop("versions")
    told = ", ".join(f"{key} {value}" for key, value in (ruler | versions).items() if value is not None)
    return ["<h2>Figures</h2>", _table(("measure", "value"), rows), f"<p class='ruler'>Ruler: {html.escape(told)}</p>"]


def _comparison(found: Compared, folder: Path) -> list[str]:
    head, rows = comparison_rows(found)
    return [
        "<h2>Quality against cost</h2>",
        _picture(folder / "comparison.png", "distance against evaluations and seconds", "plot"),
        _table(head, rows),
        *([_picture(folder / SHEET, "samples, one row a point", "plot")] if (folder / SHEET).is_file() else []),
        *(f"<p class='ruler'>{html.escape(words)}</p>" for words in ruler_words(found)),
    ]


def _memorisation(report: dict[str, Any], folder: Path) -> list[str]:  # Any: JSON values
    ratio, against = report["median_ratio"], report["against"]
    rows: list[tuple[object, ...]] = [
        (
            f"samples as near to a {against} image as the nearest {report['quantile']:.0%} of {report['probes']} "
            f"{report['baseline']} ones",
            f"{report['share']:.1%}",
        ),
        ("exact copies", report["copies"]),
        ("median distance over that of real data", "infinite: the data repeat" if ratio is None else f"{ratio:.2f}"),
    ]
    return [
        "<h2>Memorisation</h2>",
        _table(("in " + report["space"], f"{report['samples']} samples, {report['searched']} {against} images"), rows),
        f"<p>Nearest pairs, each a sample and then its nearest {against} image:</p>",
        _picture(folder / FOLDER / "nearest.png", f"samples beside their nearest {against} images"),
    ]
