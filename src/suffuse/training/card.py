"""The model card: what a stranger reads first in a run's folder and on the Hub."""

from __future__ import annotations

from pathlib import Path

from suffuse.base import files
from suffuse.data import Buckets, Dataset
from suffuse.models.alignment import AlignmentConfig
from suffuse.models.codec import CodecConfig
from suffuse.models.config import ModelConfig
from suffuse.models.pretrained import AnyConfig
from suffuse.training.recipes import AnyRecipe

__all__ = ["add_figures", "model_card"]

_FIGURES = "## Figures"


def model_card(recipe: AnyRecipe, config: AnyConfig, samples: Dataset | Buckets) -> str:
    """Markdown with the Hub's header.

    Args:
        recipe: What was done.
        config: What came out.
        samples: What was learned from.
    """
    classes = f"{len(config.classes)} classes" if isinstance(config, ModelConfig) and config.classes else "no labels"
    what, tag, pipeline, command = _words(config)
    parts = samples.parts if isinstance(samples, Buckets) else (samples,)
    size = ", ".join("x".join(str(n) for n in part.shape) for part in parts)
    lines = [
        "---",
        "library_name: suffuse",
        f"tags: [{tag}, suffuse]",
        f"pipeline_tag: {pipeline}",
        "---",
        f"# {what} trained with suffuse",
        "",
        recipe.about or "Trained from a recipe of its own; see `recipe.yaml`.",
        "",
        "| | |",
        "|---|---|",
        f"| data | {parts[0].name}, {len(samples)} samples of {size}, {classes} |",
        *(f"| {name} | {value} |" for name, value in config.facts().items()),
        f"| weights | {config.weights} after {config.step} steps of {recipe.training.batch} images |",
        "",
        "```",
        f"suffuse {command}",
        "```",
        "",
    ]
    return "\n".join(lines)


def _words(config: AnyConfig) -> tuple[str, str, str, str]:
    """What a model is called, its tag and pipeline on the Hub, and the command that shows what it does."""
    if isinstance(config, CodecConfig):
        return "An autoencoder", "autoencoder", "image-to-image", "eval <this folder>"
    if isinstance(config, AlignmentConfig):
        return "An alignment of captions with images", "clip", "zero-shot-image-classification", "eval <this folder>"
    return "A diffusion model", "diffusion", "unconditional-image-generation", "sample <this folder> --n 16"


def add_figures(folder: Path, table: str) -> None:
    """Put an evaluation's table under the card's last heading, in place of an older one."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    files.write_text(path, f"{text.split(_FIGURES)[0].rstrip()}\n\n{_FIGURES}\n\n{table}\n")
