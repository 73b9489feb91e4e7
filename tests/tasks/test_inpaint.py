"""Inpainting as a task: what is known stays bit for bit, in pixels and in latents, whatever is hidden."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys
from suffuse.models.masks import RandomMasks
from suffuse.sampling import DPMSolverPP, Uniform
from suffuse.tasks.generate import Asked, generate
from suffuse.tasks.inpaint import inpaint
from suffuse.tasks.runs import OpenRun, open_run
from suffuse.training.recipe_files import load_recipe
from suffuse.training.run import train

SMALL = ("steps=3", "batch=4", "device=cpu", "training.checkpoint_every=100", "training.ema=[50]", "data.count=24")
NETWORK = (
    "{kind: unet, channels: 8, multipliers: [1, 1], blocks: 1, attention_levels: [1], groups: 2, zero_init: false}"
)


def trained(name: str, folder: Path, *overrides: str) -> OpenRun:
    train(load_recipe(name, [*SMALL, "data.size=16", *overrides, f"out={folder}"]), name)
    return open_run(folder, device="cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OpenRun]:
    folder = tmp_path_factory.mktemp("inpainting")
    own = [
        f"network={NETWORK}",
        "network.zero_extra=false",
        "sampling.grid.steps=2",
        "optimiser.warmup=0",
        "optimiser.lr=0.01",
    ]
    codec = "network={kind: kl, channels: 4, multipliers: [1, 1], blocks: 1, groups: 2, attention: false}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        pixels = trained("shapes-inpainting", folder / "pixels", *own)
        auto = ["steps=3", "batch=4", "device=cpu", "training.ema=[50]", f"out={folder / 'codec'}"]
        train(
            load_recipe("digits-autoencoder", [*auto, "data.kind=shapes", "data.size=16", "data.count=24", codec]),
            "codec",
        )
        latents = trained("shapes-inpainting", folder / "latents", *own, f"codec.run={folder / 'codec'}")
    return {"pixels": pixels, "latents": latents}


def some(n: int = 3) -> tuple[Tensor, Tensor]:
    images = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return images, RandomMasks().draw(keys(0, "k", 0, torch.arange(n)), 16, 16)


@pytest.mark.parametrize("space", ["pixels", "latents"])
def test_what_is_known_stays_and_what_is_hidden_does_not_matter(runs: dict[str, OpenRun], space: str) -> None:
    run, (images, mask) = runs[space], some()
    filled = inpaint(run, images, mask, seed=1)
    known = mask.bool().expand_as(images)
    assert torch.equal(filled.x[known], images[known])
    assert not torch.allclose(filled.x[~known], images[~known], atol=1e-2)
    noise = images.where(mask.bool(), torch.full((), torch.nan))
    assert torch.equal(inpaint(run, noise, mask, seed=1).x, filled.x)
    whole = inpaint(run, images, torch.ones_like(mask), seed=1)
    assert torch.equal(whole.x, images)
    alone = inpaint(run, images[2:], mask[2:], seed=1, first=2)
    torch.testing.assert_close(alone.x, filled.x[2:], atol=1e-4, rtol=1e-4)


def test_it_depends_on_what_is_known_on_the_text_and_on_the_seed(runs: dict[str, OpenRun]) -> None:
    run, (images, mask) = runs["pixels"], some()
    hole = ~mask.bool().expand_as(images)
    filled = inpaint(run, images, mask).x[hole]
    for other in (
        inpaint(run, images.flip(1), mask),
        inpaint(run, images, mask, asked=Asked(prompts=("a red circle",))),
        inpaint(run, images, mask, seed=1),
    ):
        assert not torch.allclose(other.x[hole], filled, atol=1e-4)
    told = inpaint(run, images, mask, asked=Asked(prompts=("a red circle",)))
    assert told.captions == ("a red circle",) * 3
    other = run.sampling.replace(solver=DPMSolverPP(), grid=Uniform(steps=3))
    assert inpaint(run, images, mask, other).nfe == 3


@pytest.mark.parametrize("space", ["pixels", "latents"])
def test_samples_of_such_a_run_are_of_its_own_data_with_masks_of_their_numbers(
    runs: dict[str, OpenRun], space: str
) -> None:
    run = runs[space]
    many, alone = generate(run, 4, run.sampling, seed=1), generate(run, 1, run.sampling, seed=1, first=2)
    torch.testing.assert_close(many.x[2:3], alone.x, atol=1e-4, rtol=1e-4)
    assert len(many.captions) == 4


def test_what_does_not_fit_is_named(runs: dict[str, OpenRun]) -> None:
    run, (images, mask) = runs["pixels"], some()
    with pytest.raises(UsageError, match=r"images has shape \(3, 3, 8, 8\)"):
        inpaint(run, images[..., :8, :8], mask)
    with pytest.raises(UsageError, match=r"mask has shape \(3, 1, 8, 16\); give 1 \(known\) or 0"):
        inpaint(run, images, mask[:, :, :8])
    with pytest.raises(UsageError, match="give 1"):
        inpaint(run, images, mask * 0.5)
    with pytest.raises(UsageError, match="class-conditional"):
        inpaint(run, images, mask, asked=Asked(label="3"))
    with pytest.raises(UsageError, match="told known too, which a prompt cannot give"):
        generate(run, 1, run.sampling, asked=Asked(prompts=("a red circle",)))
