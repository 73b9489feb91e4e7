"""Whole cascades of tiny stages: Wuerstchen's three and DiffuseVAE's two, each a folder that samples by itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.models.pretrained import load_codec, load_model
from suffuse.models.reconstruction import ReconstructionConditioner
from suffuse.networks.autoencoders.compressor import CompressorNetwork
from suffuse.tasks.generate import Asked, generate, generate_each
from suffuse.tasks.runs import OpenRun, open_run
from suffuse.training import decoding
from suffuse.training.recipe_files import load_recipe
from suffuse.training.run import train
from suffuse.training.stages import load_stages, train_stages

SMALL = ("steps=3", "batch=4", "device=cpu", "training.checkpoint_every=100", "training.ema=[50]")

STARTED: list[CompressorNetwork] = []  # compressors that asked for the weights that a fresh one starts from


def cascade(name: str, folder: Path, *overrides: str) -> OpenRun:
    train_stages(load_stages(name, [*SMALL, f"out={folder}", *overrides]), name)
    return open_run(folder, device="cpu")


@pytest.fixture(scope="module")
def wuerstchen(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    folder = tmp_path_factory.mktemp("wuerstchen")
    small = [
        "data.count=40",
        "stages.a.network={kind: kl, channels: 4, multipliers: [1, 1, 1], blocks: 1, groups: 2, attention: false}",
        "stages.b.network.widths=[8, 8]",
        "stages.b.network.blocks=[1, 1]",
        "stages.b.network.heads=[0, 2]",
        "stages.b.conditioner.compressor.widths=[4, 4, 4]",
        "stages.b.sampling.grid.steps=3",
        "stages.c.network={kind: convnext_prior, width: 8, depth: 1, heads: 2, frequencies: 8}",
        "stages.c.sampling.grid.steps=3",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(CompressorNetwork, "start", lambda live: STARTED.append(live))
        return cascade("shapes-wuerstchen", folder / "run", *small)


def test_the_folder_of_the_prior_is_the_whole_cascade(wuerstchen: OpenRun, tmp_path: Path) -> None:
    shutil.copytree(wuerstchen.folder, tmp_path / "moved", ignore=shutil.ignore_patterns("stages"))
    moved = open_run(tmp_path / "moved", device="cpu")
    asked = Asked(prompts=("a red circle",))
    made = [generate(run, 3, run.sampling, asked=asked, seed=1) for run in (wuerstchen, moved)]
    assert made[0].x.shape == (3, 3, 32, 32)
    assert torch.equal(made[0].x, made[1].x)
    assert made[0].nfe == 2 * 3, "both halves of guidance, three steps; what decodes is not counted"


def test_the_compressor_starts_once_and_is_not_started_where_it_is_a_codec(wuerstchen: OpenRun) -> None:
    assert wuerstchen.codec is not None
    assert len(STARTED) == 1


def test_an_image_is_the_same_in_any_batch_of_the_cascade(wuerstchen: OpenRun) -> None:
    asked = Asked(prompts=("a blue square",))
    many = generate(wuerstchen, 4, wuerstchen.sampling, asked=asked, seed=2)
    alone = generate(wuerstchen, 1, wuerstchen.sampling, asked=asked, seed=2, first=2)
    torch.testing.assert_close(many.x[2:3], alone.x, atol=1e-4, rtol=1e-4)
    small = generate(wuerstchen, 4, wuerstchen.sampling.replace(batch=3), asked=asked, seed=2)
    torch.testing.assert_close(many.x, small.x, atol=1e-4, rtol=1e-4)


def test_text_reaches_both_denoisers_and_negative_prompts_are_no_prompts(wuerstchen: OpenRun) -> None:
    wishes = [Asked(prompts=("a red circle",)), Asked(prompts=("a blue square",))]
    both = generate_each(wuerstchen, 2, wuerstchen.sampling, wishes)
    assert both.captions == ("a red circle",) * 2 + ("a blue square",) * 2
    assert not torch.allclose(both.x[:2], both.x[2:], atol=1e-5)
    plain, against = (
        generate(wuerstchen, 2, wuerstchen.sampling, asked=Asked(prompts=("a red circle",), negative=text))
        for text in (None, "a blue square")
    )
    assert not torch.allclose(plain.x, against.x, atol=1e-6)


def test_what_decodes_has_noise_of_its_own(wuerstchen: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the numbers were the prior's, bit for bit: a code and a noise that training never sees together."""
    seeds = []
    original = decoding.sample_batches

    def spy(*args: Any, **settings: Any) -> Any:
        seeds.append(settings["seed"])
        return original(*args, **settings)

    monkeypatch.setattr(decoding, "sample_batches", spy)
    generate(wuerstchen, 1, wuerstchen.sampling, asked=Asked(prompts=("a red circle",)), seed=3)
    generate(wuerstchen, 1, wuerstchen.sampling, asked=Asked(prompts=("a red circle",)), seed=4)
    assert len({3, 4, *seeds}) == 4


def test_a_prompt_cannot_stand_for_a_code(wuerstchen: OpenRun) -> None:
    stage = open_run(wuerstchen.folder / "stages" / "b", device="cpu")
    with pytest.raises(UsageError, match="this model is told code too, which a prompt cannot give"):
        generate(stage, 1, stage.sampling, asked=Asked(prompts=("a red circle",)))


def test_the_compressor_is_the_codec_of_the_prior(wuerstchen: OpenRun) -> None:
    assert wuerstchen.codec is not None
    assert wuerstchen.config.codec is not None
    denoiser = load_model(wuerstchen.folder / "stages" / "b")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    code = denoiser.conditioner.encode(images)
    torch.testing.assert_close(wuerstchen.codec.raw(wuerstchen.codec.encode(images)), code, atol=1e-5, rtol=1e-5)
    assert torch.equal(load_codec(wuerstchen.folder / "stages" / "b").encode(images), code)
    data = wuerstchen.recipe
    assert data is not None
    latents = wuerstchen.training_data(data.data).batch(torch.arange(40)).x0
    assert latents is not None
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(8), atol=0.02, rtol=0)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(8), atol=2e-3, rtol=0)


def test_the_denoiser_under_the_code_draws_what_its_own_data_show(wuerstchen: OpenRun) -> None:
    run = open_run(wuerstchen.folder / "stages" / "b", device="cpu")
    made = generate(run, 3, run.sampling)
    assert made.x.shape == (3, 3, 32, 32)
    with pytest.raises(UsageError, match=r"condition|image|code"):
        generate(run, 1, run.sampling, asked=Asked(label="3"))


def test_diffusevae_draws_vectors_and_refines_their_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = cascade("digits-diffusevae", tmp_path / "run", "stages.refiner.network.channels=8")
    live = run.model.conditioner
    assert isinstance(live, ReconstructionConditioner)
    assert live.density.shares.sum().item() == pytest.approx(1, abs=1e-5)
    assert not torch.equal(live.density.means, torch.zeros_like(live.density.means)), "it was fitted"
    vae = load_codec(tmp_path / "run" / "stages" / "vae")
    for name, weight in vae.network.state_dict().items():
        assert torch.equal(live.first.state_dict()[name], weight), f"{name} is no longer the first stage's"
    made = generate(run, 4, run.sampling, seed=1)
    torch.testing.assert_close(generate(run, 1, run.sampling, seed=1, first=3).x, made.x[3:], atol=1e-4, rtol=1e-4)
    shutil.rmtree(tmp_path / "run" / "stages")
    assert torch.equal(generate(open_run(tmp_path / "run", device="cpu"), 4, run.sampling, seed=1).x, made.x)


def test_a_first_stage_that_is_not_there_is_named(tmp_path: Path) -> None:
    fields = load_stages("digits-diffusevae", SMALL).stages["refiner"].dump()
    recipe = load_recipe("digits-ddpm", [*SMALL, f"out={tmp_path / 'x'}"]).replace(conditioner=fields["conditioner"])
    with pytest.raises(UsageError, match="'stage:vae' is a stage of a recipe with stages"):
        train(recipe, "x")
    absent = recipe.replace(conditioner={**fields["conditioner"], "run": "nowhere"})
    with pytest.raises(UsageError, match=r"conditioner\.run 'nowhere' cannot be opened .*suffuse train digits-vae"):
        train(absent, "x")
