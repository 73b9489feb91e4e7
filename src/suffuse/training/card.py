"""The model card: what a stranger reads first in a run's folder and on the Hub."""

from __future__ import annotations

from pathlib import Path

from suffuse.base import files
from suffuse.data import Dataset
from suffuse.models.codec import CodecConfig
from suffuse.models.config import ModelConfig
from suffuse.training.recipes import AnyRecipe

__all__ = ["add_figures", "model_card"]

_FIGURES = "## Figures"


def model_card(recipe: AnyRecipe, config: ModelConfig | CodecConfig, dataset: Dataset) -> str:
    """Markdown with the Hub's header.

    Args:
        recipe: What was done.
        config: What came out.
        dataset: What was learned from.
    """
    classes = f"{len(config.classes)} classes" if isinstance(config, ModelConfig) and config.classes else "no labels"
    codec = isinstance(config, CodecConfig)
    size = "x".join(str(n) for n in dataset.shape)
    lines = [
        "---",
        "library_name: suffuse",
        f"tags: [{'autoencoder' if codec else 'diffusion'}, suffuse]",
        f"pipeline_tag: {'image-to-image' if codec else 'unconditional-image-generation'}",
        "---",
        f"# {'An autoencoder' if codec else 'A diffusion model'} trained with suffuse",
        "",
        recipe.about or "Trained from a recipe of its own; see `recipe.yaml`.",
        "",
        "| | |",
        "|---|---|",
        f"| data | {dataset.name}, {len(dataset)} samples of {size}, {classes} |",
        *(f"| {name} | {value} |" for name, value in config.facts().items()),
        f"| weights | {config.weights} after {config.step} steps of {recipe.training.batch} images |",
        "",
        "```",
        "suffuse eval <this folder>" if codec else "suffuse sample <this folder> --n 16",
        "```",
        "",
    ]
    return "\n".join(lines)


def add_figures(folder: Path, table: str) -> None:
    """Put an evaluation's table under the card's last heading, in place of an older one."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    files.write_text(path, f"{text.split(_FIGURES)[0].rstrip()}\n\n{_FIGURES}\n\n{table}\n")
