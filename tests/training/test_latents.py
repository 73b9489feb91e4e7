"""Latent runs: an autoencoder first, its copy inside the run, latents computed once, images out at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from suffuse.base.errors import UsageError
from suffuse.data import Digits
from suffuse.data import cache as data_cache
from suffuse.models.pretrained import load_codec, load_model, push_folder
from suffuse.networks import KLAutoencoder
from suffuse.tasks.generate import generate
from suffuse.tasks.runs import OpenRun, open_run
from suffuse.training.codec_recipe import CodecRecipe
from suffuse.training.frozen_parts import located
from suffuse.training.latents import latents_of
from suffuse.training.recipe import Recipe
from suffuse.training.recipe_files import load_recipe, recipe_from
from suffuse.training.run import Watcher, train

Make = Callable[..., Recipe]
Remains = Callable[[Path], dict[str, Any]]

AUTOENCODER: dict[str, Any] = {
    "learns": "codec",
    "data": {"kind": "digits"},
    "network": {"kind": "kl", "channels": 4, "multipliers": [1, 2], "blocks": 1, "latent_channels": 2, "groups": 2},
    "optimiser": {"lr": 1e-2},
    "training": {"steps": 6, "batch": 8, "ema": [100], "log_every": 3, "checkpoint_every": 3, "device": "cpu"},
}
MAP: dict[str, Any] = {
    "path": {"kind": "edm"},
    "prediction": {"kind": "edm"},
    "time": "log_sigma",
    "objective": {"kind": "consistency", "pairs": {"kind": "grid", "curriculum": {"kind": "fixed", "count": 4}}},
    "sampling": {"solver": {"kind": "consistency"}, "grid": {"kind": "karras", "sigma_min": 0.8, "steps": 2}},
}
# Latents of 2x4x4, on which an MLP learns.
LATENT: dict[str, Any] = {"data": {"kind": "digits"}, "conditioner": "none"}


def autoencoder(out: Path, **training: Any) -> CodecRecipe:
    tree = {**AUTOENCODER, "out": str(out), "training": {**AUTOENCODER["training"], **training}}
    recipe = recipe_from(tree, "tiny")
    assert isinstance(recipe, CodecRecipe)
    return recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(autoencoder(tmp_path_factory.mktemp("codec") / "run"), "codec").folder


@pytest.fixture
def latent(tiny: Make, finished: Path) -> Callable[..., Recipe]:
    def make(name: str = "latent", *, tree: dict[str, Any] | None = None, **training: Any) -> Recipe:
        both = {**LATENT, "codec": {"run": str(finished)}, **(tree or {})}
        return tiny(name, tree=both, **training)

    return make


def images_of(side: int, folder: Path) -> dict[str, Any]:
    for number in range(12):
        (folder / f"{side}").mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{side}" / f"{number}.png")
    return {"kind": "images", "path": str(folder / f"{side}"), "channels": "grey", "size": side}


def test_a_codec_takes_images_of_other_sizes(latent: Make, tmp_path: Path) -> None:
    run = open_run(train(latent(tree={"data": images_of(12, tmp_path)}), "x").folder)
    assert (run.config.shape, run.shape) == ((2, 6, 6), (1, 12, 12))
    assert generate(run, 2, run.sampling).x.shape == (2, 1, 12, 12)


def test_an_autoencoder_is_a_run_like_others(finished: Path) -> None:
    config = json.loads((finished / "config.json").read_text())
    assert (config["kind"], config["shape"], config["step"]) == ("codec", [1, 8, 8], 6)
    assert "# An autoencoder trained with suffuse" in (finished / "README.md").read_text()
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {"reconstruction", "kl", "grad_norm"} <= set(lines[-1])
    recipe = load_recipe(str(finished / "recipe.yaml"))
    assert isinstance(recipe, CodecRecipe)


def test_an_autoencoder_is_resumed_to_the_bit(tmp_path: Path, remains: Remains) -> None:
    straight = train(autoencoder(tmp_path / "straight"), "x").folder
    train(autoencoder(tmp_path / "twice", steps=3), "x")
    twice = train(autoencoder(tmp_path / "twice"), "x", resume=True).folder
    assert remains(twice) == remains(straight)


def test_its_sheet_shows_images_beside_what_comes_back(tmp_path: Path) -> None:
    folder = train(autoencoder(tmp_path / "sheet", sample_every=6, samples=8), "x").folder
    assert (folder / "samples" / "step-00000006.png").is_file()


def test_latents_are_those_of_the_codec_standardised(latent: Make, finished: Path) -> None:
    run = open_run(train(latent(), "x").folder)
    assert run.codec is not None
    assert (run.config.shape, run.shape) == ((2, 4, 4), (1, 8, 8))
    assert run.recipe is not None
    latents, images = run.training_data(run.recipe.data), run.recipe.data.load()
    assert latents.shape == (2, 4, 4)
    assert latents.labels is not None
    assert (latents.labels == images.labels).all()
    index = torch.arange(len(images))
    z, x = latents.batch(index).x0, images.batch(index).x0
    assert z is not None
    assert x is not None
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.full((2,), 0.5), atol=1e-3, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(z, run.codec.encode(x), atol=1e-5, rtol=1e-5)
        raw = load_codec(finished).encode(x)
    torch.testing.assert_close((raw - run.codec.shift) * run.codec.scale, z, atol=1e-5, rtol=1e-5)


def test_the_run_says_how_latents_spread_and_draws_it(latent: Make) -> None:
    said: list[str] = []
    folder = train(latent(), "x", watcher=Watcher(note=said.append)).folder
    assert [line.split(":")[0] for line in said if "outer fences" in line] == ["pixels 0", "latent 0", "latent 1"]
    assert (folder / "latents.png").stat().st_size > 1000


def test_latents_are_computed_once(latent: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    train(latent("one"), "x")
    calls: list[str] = []
    real = data_cache._make
    monkeypatch.setattr(data_cache, "_make", lambda folder, name, fill: calls.append(name) or real(folder, name, fill))
    train(latent("two"), "x")
    assert not [name for name in calls if "latents" in name]


def test_a_latent_run_stands_alone_and_resumes_to_the_bit(
    latent: Make, finished: Path, remains: Remains, tmp_path: Path
) -> None:
    codec = tmp_path / "codec"
    shutil.copytree(finished, codec)
    tree = {"codec": {"run": str(codec)}, "optimiser": {"decay": "none"}}
    straight = train(latent("straight", tree=tree, log_every=4), "x").folder
    train(latent("twice", tree=tree, log_every=4, steps=4), "x")
    shutil.rmtree(codec)
    twice = train(latent("twice", tree=tree, log_every=4), "x", resume=True).folder
    assert remains(twice) == remains(straight)
    run = open_run(twice)
    assert run.config.codec is not None
    assert run.config.codec.startswith("parts/")
    made = generate(run, 3, run.sampling)
    assert made.x.shape == (3, 1, 8, 8)


def test_a_model_without_its_codec_says_so(latent: Make) -> None:
    folder = train(latent(), "x").folder
    shutil.rmtree(folder / "parts")
    with pytest.raises(UsageError, match="is missing: the codec that turns this model's latents into images"):
        open_run(folder)


def test_samples_are_the_decoded_latents(latent: Make) -> None:
    run = open_run(train(latent(), "x").folder)
    assert run.codec is not None
    images = generate(run, 4, run.sampling).x
    bare = OpenRun(run.folder, run.model, run.config, run.recipe)
    with torch.no_grad():
        torch.testing.assert_close(images, run.codec.decode(generate(bare, 4, run.sampling).x), atol=1e-6, rtol=1e-6)


def test_another_run_of_a_latent_run_takes_its_codec(latent: Make) -> None:
    first = train(latent("first"), "x").folder
    again = load_recipe(str(first / "recipe.yaml"), [f"out={first.parent / 'second'}"])
    second = train(located(again, first), "x").folder
    both = [open_run(folder) for folder in (first, second)]
    one, two = (run.codec for run in both)
    assert one is not None
    assert two is not None
    assert torch.equal(one.scale, two.scale)
    assert both[0].config.codec == both[1].config.codec


def test_what_does_not_go_together_is_refused(latent: Make, tiny: Make, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"takes images of \(1, 8, 8\), but the data have \(3, 16, 16\)"):
        train(latent("channels", tree={"data": {"kind": "shapes", "size": 16, "count": 9}}), "x")
    with pytest.raises(UsageError, match="images of 9x9 cannot be halved 1 times"):
        train(latent("odd", tree={"data": images_of(9, tmp_path)}), "x")
    with pytest.raises(UsageError, match="is no autoencoder; give"):
        train(latent("kind", tree={"codec": {"run": str(train(tiny("points"), "x").folder)}}), "x")
    with pytest.raises(UsageError, match="is an autoencoder, which makes no samples"):
        open_run(finished)
    plain = train(tiny("pixels", tree={**LATENT, "network": {"kind": "mlp", "width": 8, "depth": 1}}), "x").folder
    with pytest.raises(UsageError, match="the run was trained in pixels; resume it so"):
        train(latent("pixels"), "x", resume=True)
    with pytest.raises(UsageError, match=r"init .* lives in pixels, the model that is trained in codec parts/"):
        train(latent("init", tree={"init": {"run": str(plain)}}), "x")
    with pytest.raises(UsageError, match=r"kind of recipe \(learns\) 'codecs' does not exist.*did you mean 'codec'"):
        recipe_from({**AUTOENCODER, "learns": "codecs"}, "tiny")


def test_pushed_are_the_model_and_its_codec_not_its_teachers(
    latent: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    folder = train(latent(), "x").folder
    (folder / "parts" / "teacher").mkdir()
    ignored: list[str] = []

    class Api:
        def __init__(self, token: str | None = None) -> None: ...

        def create_repo(self, *args: object, **options: object) -> None: ...

        def upload_folder(self, *, ignore_patterns: list[str], **options: object) -> Any:
            ignored.extend(ignore_patterns)
            return type("Commit", (), {"commit_url": "https://example.org"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    push_folder(folder, "owner/name")
    assert [pattern for pattern in ignored if pattern.startswith("parts")] == ["parts/teacher/*"]
    assert open_run(folder).codec is not None


def test_another_codec_or_deviation_is_another_space(latent: Make, finished: Path, tmp_path: Path) -> None:
    """The name of the codec's copy is that of its content: nothing stale is ever served."""
    other = train(autoencoder(tmp_path / "other", steps=4), "codec").folder
    trees = [{}, {"codec": {"run": str(finished), "std": 1.0}}, {"codec": {"run": str(other)}}]
    runs = [open_run(train(latent(f"run{k}", tree=tree), "x").folder) for k, tree in enumerate(trees)]
    assert len({run.config.codec for run in runs}) == 3
    for run, std in zip(runs, (0.5, 1.0, 0.5), strict=True):
        assert run.recipe is not None
        z = run.training_data(run.recipe.data).batch(torch.arange(1797)).x0
        assert z is not None
        torch.testing.assert_close(z.std((0, 2, 3)), torch.full((2,), std), rtol=1e-3, atol=0)


def test_a_run_in_latents_is_tuned_and_asked_in_its_own_codec(latent: Make) -> None:
    denoiser = {**MAP, "objective": {"kind": "denoising", "noise_levels": "log_normal"}, "sampling": {}}
    first = train(latent("first", tree=denoiser), "x").folder
    codec = open_run(first).config.codec
    inside = {"codec": {"run": str(first / str(codec)), "std": None}}
    again = {**MAP, **inside, "init": str(first), "objective": {**MAP["objective"], "teacher": {"run": str(first)}}}
    second = open_run(train(latent("second", tree=again), "x").folder)
    assert second.config.codec == codec


def test_mirrored_images_have_latents_of_their_own(latent: Make) -> None:
    run = open_run(train(latent(flip=True), "x").folder)
    assert run.recipe is not None
    assert run.codec is not None
    images, own = run.recipe.data.load(), run.recipe.codec
    assert own is not None
    data = latents_of(own, images, run.folder, torch.device("cpu"), mirrored=True)
    index, turned = torch.arange(6), torch.tensor([True, False] * 3)
    latents, pictures = data.batch(index, turned).x0, images.batch(index, turned).x0
    assert latents is not None
    assert pictures is not None
    torch.testing.assert_close(latents, run.codec.encode(pictures), atol=1e-5, rtol=1e-5)


def test_a_start_that_was_refused_can_be_made_again(latent: Make) -> None:
    with pytest.raises(UsageError, match="conditioner 'class' does not exist; did you mean 'class_"):
        train(latent(tree={"conditioner": {"kind": "class", "classes": 7}}), "x")
    train(latent(), "x")


def test_a_codec_that_is_not_there_is_found_before_the_data_are_read(
    latent: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "load", lambda self, cache=None: pytest.fail("read the data"))
    with pytest.raises(UsageError, match=r"codec runs/nowhere cannot be opened.*train an autoencoder first"):
        train(latent(tree={"codec": "runs/nowhere"}), "x")


def test_what_a_run_was_begun_with_is_kept_when_it_is_resumed(latent: Make) -> None:
    train(latent(tree={"sigma_data": "auto"}, steps=4), "x")
    again = latent(tree={"sigma_data": "auto"})
    assert open_run(train(again, "x", resume=True).folder).config.sigma_data != "auto"
    with pytest.raises(UsageError, match=r"trained with sigma_data .*, not 0\.3; resume with its own"):
        train(latent(tree={"sigma_data": 0.3}), "x", resume=True)
    with pytest.raises(UsageError, match=r"have codec\.std 0\.5, not 1\.0"):
        train(latent(tree={"sigma_data": "auto", "codec": {"run": "runs/x", "std": 1.0}}), "x", resume=True)


def test_a_latent_model_is_not_saved_without_its_codec(latent: Make, tmp_path: Path) -> None:
    model = load_model(train(latent(), "x").folder)
    with pytest.raises(UsageError, match="would be saved without the codec"):
        model.save_pretrained(tmp_path / "saved")


def test_many_images_go_through_in_parts(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, images = load_codec(finished), torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = codec.decode(codec.encode(images))
        monkeypatch.setattr("suffuse.models.codec._PIXELS", 3 * 64)
        torch.testing.assert_close(codec.decode(codec.encode(images)), whole, atol=1e-5, rtol=1e-5)


def test_a_compiled_autoencoder_is_compiled_where_it_is_called() -> None:
    network = KLAutoencoder(channels=4, multipliers=(1, 2), blocks=1, groups=2).build((1, 8, 8))
    graphs: list[object] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    network.compile(backend=backend)
    with torch.no_grad():
        network.decode(network.moments(torch.zeros(1, 1, 8, 8))[0])
    assert len(graphs) >= 2
