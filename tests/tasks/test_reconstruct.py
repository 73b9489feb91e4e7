"""Autoencoders of every kind: trained, shown on a sheet, judged by what comes back, and lived in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ot  # noqa: F401  # imported here, because its import draws from Python's global generator
import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.data import Digits
from suffuse.data import cache as data_cache
from suffuse.metrics import Pixels
from suffuse.models.pretrained import load_codec
from suffuse.tasks.generate import generate
from suffuse.tasks.judge import ImageJudge
from suffuse.tasks.reconstruct import evaluate_codec, is_codec, open_codec, there_and_back
from suffuse.tasks.runs import open_run
from suffuse.training.codec_recipe import CodecRecipe
from suffuse.training.joints import JOINTS
from suffuse.training.recipe import Recipe
from suffuse.training.run import train

LEVELS = {"channels": 4, "multipliers": [1, 2], "blocks": 1, "latent_channels": 3, "groups": 2}
CODES = {"size": 9, "learns": "ema"}
KINDS: dict[str, dict[str, Any]] = {
    "kl": LEVELS,
    "vq": {**LEVELS, "codebook": CODES},
    "convnext_vq": {"channels": 4, "levels": 1, "blocks": 1, "codebook": CODES},
    "vector": LEVELS,
    "tiny": {"channels": 4, "decoder_channels": 4, "blocks": [1, 1], "decoder_blocks": [1, 1]},
}
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an autoencoder of each kind, three steps long."""
    return trained(request.param, tmp_path_factory.mktemp(request.param) / "run")


def trained(kind: str, out: Path) -> Path:
    recipe = parse(
        CodecRecipe,
        {
            "learns": "codec",
            "data": "digits",
            "network": {"kind": kind, **KINDS[kind]},
            "training": {"steps": 3, "batch": 8, "ema": [100], "sample_every": 3, "samples": 4, "device": "cpu"},
            "out": str(out),
        },
    )
    return train(recipe, "x").folder


def test_all_kinds_are_tried_here() -> None:
    """But a compressor, which has no way back: it is tried with the denoiser that decodes its codes."""
    assert KINDS.keys() == JOINTS["autoencoder"].parts.keys() - {"compressor"}


def test_it_is_trained_and_shows_images_beside_what_comes_back(run: Path) -> None:
    assert is_codec(run)
    assert (run / "samples" / "step-00000003.png").stat().st_size > 100


def test_it_is_judged_by_what_comes_back(run: Path) -> None:
    dataset = Digits().load()
    opened = open_codec(run, device="cpu")
    found = evaluate_codec(opened, ImageJudge(dataset, Pixels(SHAPE), count=100), samples=40)
    sent, back = next(there_and_back(opened.codec, dataset, torch.arange(40)))
    assert back.shape == sent.shape
    assert 0 < found.psnr < 40
    assert found.distance.value > 0
    assert json.loads((run / "evaluation" / "figures.json").read_text())["psnr"] == found.psnr


@torch.no_grad()
def test_it_decodes_what_it_encodes_whatever_the_scale(run: Path) -> None:
    codec = load_codec(run)
    x = Digits().load().batch(torch.arange(6)).x0
    assert x is not None
    raw = codec.encode(x)
    before = codec.decode(raw)
    dims = (0, 2, 3)
    codec.standardise(raw.mean(dims), raw.std(dims), 0.5)
    torch.testing.assert_close(codec.encode(x).std(dims), torch.full((raw.shape[1],), 0.5), atol=1e-4, rtol=1e-3)
    if codec.network.codebook is None or not codec.network.quantises:  # a code may be another for the last digit
        torch.testing.assert_close(codec.decode(codec.encode(x)), before, atol=1e-4, rtol=1e-4)


def latent_recipe(codec: Path, out: Path, **data: Any) -> Recipe:
    return parse(
        Recipe,
        {
            "data": {"kind": "digits", **data},
            "codec": {"run": str(codec), "std": 1.0},
            "conditioner": "none",
            "network": {"kind": "mlp", "width": 8, "depth": 1},
            "path": {"kind": "flow"},
            "prediction": "flow",
            "objective": {"kind": "denoising", "noise_levels": "logit_normal"},
            "training": {"steps": 2, "batch": 8, "ema": [100], "device": "cpu"},
            "sampling": {"solver": {"kind": "heun", "variable": "time"}, "grid": {"kind": "uniform", "steps": 2}},
            "out": str(out),
        },
    )


@pytest.mark.parametrize("kind", ["vector", "vq"])
def test_a_model_lives_in_its_latents(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert str(data_cache.default_cache()).startswith(str(tmp_path))
    codec = trained(kind, tmp_path / "codec")
    opened = open_run(train(latent_recipe(codec, tmp_path / "run"), "x").folder, device="cpu")
    assert opened.config.shape == ((3, 1, 1) if kind == "vector" else (3, 4, 4))
    assert generate(opened, 3, opened.sampling).x.shape == (3, *SHAPE)


def test_a_vector_takes_images_of_one_size(tmp_path: Path) -> None:
    codec = trained("vector", tmp_path / "codec")
    recipe = latent_recipe(codec, tmp_path / "run").replace(data={"kind": "shapes", "size": 16, "count": 12})
    with pytest.raises(UsageError, match="takes images of"):
        train(recipe, "x")


def test_many_latents_of_a_vector_are_decoded_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = load_codec(trained("vector", tmp_path / "codec"))
    z = torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = codec.decode(z)
    sizes: list[int] = []
    monkeypatch.setattr("suffuse.models.codec._PIXELS", 2 * 64)  # two images of 8x8
    real = codec.network.images
    monkeypatch.setattr(codec.network, "images", lambda some: sizes.append(len(some)) or real(some))
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(z), whole, atol=1e-6, rtol=1e-5)
    assert sizes == [2, 2, 1]
