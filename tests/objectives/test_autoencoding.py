"""Autoencoding: divergences, sums and means, codebooks, perceptual distances, and an adversary kept within bounds."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from suffuse.base.batch import Batch
from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.randomness import Draws
from suffuse.models.codec import Codec, CodecConfig
from suffuse.networks.discriminator import PatchDiscriminator
from suffuse.networks.part import seeded
from suffuse.objectives import Playing, Progress
from suffuse.objectives.adversarial import adaptive_weight, hinge, pull
from suffuse.objectives.autoencoding import Autoencoding, divergence
from suffuse.objectives.perceptual import LPIPS, FeatureDistance

LEVELS = {"channels": 4, "multipliers": [1, 2], "blocks": 1, "groups": 2, "attention": False, "latent_channels": 3}
SHAPE = (1, 12, 12)
DISCRIMINATOR = {"width": 8, "layers": 2, "norm": "group"}
X = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def codec(kind: str = "kl", **fields: Any) -> Codec:
    return parse(CodecConfig, {"network": {"kind": kind, **LEVELS, **fields}, "shape": SHAPE}).build(seed=1).train()


def draws(step: int = 0) -> Draws:
    return Draws(0, torch.arange(len(X)), step=step, total=len(X))


def losses(
    model: Codec, player: str = "model", step: int = 0, features: Any = None, **fields: Any
) -> dict[str, Tensor]:
    objective = parse(Autoencoding, fields).build(model, features)
    return objective(model, Batch(x0=X), Progress(step, 10), draws(step), player)


class Maps:
    """Features that are easy to compute by hand: the image and its mirror image, and its halves."""

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        return torch.cat([images, images.flip(3) + 2], 1), torch.cat(images.chunk(2, 2), 1)


# Parts of the loss


def test_the_divergence_is_torchs() -> None:
    with seeded(0):
        mean, log_variance = torch.randn(5, 3, 4, 4), 2 * torch.randn(5, 3, 4, 4)
    law = Normal(mean, (0.5 * log_variance).exp())
    wanted = kl_divergence(law, Normal(torch.zeros_like(mean), torch.ones_like(mean))).flatten(1).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["kl", "vector"])
def test_means_are_those_of_the_posterior_that_is_drawn_from(kind: str) -> None:
    model = codec(kind)
    found = losses(model, error="l2", kl=0.5)
    with torch.no_grad():
        mean, log_variance = model.network.moments(X)
        assert log_variance is not None
        eps = draws().normal("posterior", tuple(mean.shape[1:]))
        back = model.network.images(mean + (0.5 * log_variance).exp() * eps)
    assert list(found) == ["reconstruction", "kl"]
    torch.testing.assert_close(found["reconstruction"], (back - X).square().flatten(1).mean(1))
    torch.testing.assert_close(found["kl"], 0.5 * divergence(mean, log_variance) / X[0].numel())


def test_sums_are_of_images_between_0_and_1() -> None:
    """DiffuseVAE's loss: |x - D(z)|^2 summed over pixels in [0, 1], and beta times the divergence."""
    model = codec("vector")
    mean, total = losses(model, error="l2", kl=1.0), losses(model, error="l2", kl=1.0, reduce="sum")
    torch.testing.assert_close(total["reconstruction"], mean["reconstruction"] * X[0].numel() / 4)
    torch.testing.assert_close(total["kl"], mean["kl"] * X[0].numel())
    total = losses(model, error="l1", reduce="sum")
    torch.testing.assert_close(total["reconstruction"], losses(model)["reconstruction"] * X[0].numel() / 2)


def test_latents_without_variance_have_no_divergence() -> None:
    levels = {"channels": 4, "decoder_channels": 4, "blocks": [1, 1], "decoder_blocks": [1, 1]}
    model = parse(CodecConfig, {"network": {"kind": "tiny", **levels}, "shape": SHAPE}).build()
    assert list(losses(model)) == ["reconstruction"]


@pytest.mark.parametrize("learns", ["gradient", "ema"])
def test_a_codebook_pulls_latents_and_vectors_together(learns: str) -> None:
    model = codec("vq", codebook={"size": 7, "learns": learns})
    book = model.network.codebook
    assert book is not None
    found = losses(model, codebook={"weight": 2.0, "commitment": 0.3})
    assert list(found) == ["reconstruction", "codebook"]
    with torch.no_grad():
        z = model.network.moments(X)[0]
        gap = (z - book(z).vectors).square().flatten(1).mean(1)
    torch.testing.assert_close(found["codebook"], 2 * gap * (1.3 if learns == "gradient" else 0.3))
    found["codebook"].sum().backward()
    assert (learns == "gradient") == any(p.grad is not None for p in book.parameters())


def test_perceptual_distances_are_those_of_unit_features() -> None:
    model = codec()
    found = losses(model, perceptual={"kind": "features", "weight": 3.0}, features=Maps())
    assert list(found) == ["reconstruction", "perceptual", "kl"]
    with torch.no_grad():
        mean, log_variance = model.network.moments(X)
        assert log_variance is not None
        back = model.network.images(
            mean + (0.5 * log_variance).exp() * draws().normal("posterior", tuple(mean.shape[1:]))
        )
        levels = zip(Maps().maps(X), Maps().maps(back), strict=True)
        unit = [(nn.functional.normalize(a, dim=1), nn.functional.normalize(b, dim=1)) for a, b in levels]
    wanted = sum((2 - 2 * (a * b).sum(1)).flatten(1).mean(1) for a, b in unit)  # |a - b|^2 of unit vectors
    torch.testing.assert_close(found["perceptual"], 3 * torch.as_tensor(wanted), rtol=1e-4, atol=1e-5)


def test_a_perceptual_distance_of_an_image_to_itself_is_nought() -> None:
    distance = FeatureDistance().build(Maps(), X.device)
    torch.testing.assert_close(distance(X, X), torch.zeros(len(X)))


def test_features_that_nobody_hands_in_are_asked_for() -> None:
    with pytest.raises(UsageError, match=r"'features' needs a network trained on the data.*train by a recipe"):
        losses(codec(), perceptual="features")


def test_lpips_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UsageError, match=r"needs the package lpips; install suffuse\[lpips\], or use kind: features"):
        LPIPS().build(None, X.device)
    monkeypatch.setitem(sys.modules, "lpips", types.ModuleType("lpips"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UsageError, match=r"needs the weights of vgg, and .*vgg16-397923af.pth is missing; fetch them"):
        LPIPS().build(None, X.device)


def test_lpips_sees_colours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Around the package, whose weights are not fetched here: grey images get three channels, distances are (B,)."""

    class Stub(nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.randn(()))

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            assert one.shape == other.shape == (4, 3, 12, 12)
            return (one - other).square().mean((1, 2, 3), keepdim=True)

    package = types.ModuleType("lpips")
    monkeypatch.setattr(package, "LPIPS", Stub, raising=False)
    monkeypatch.setitem(sys.modules, "lpips", package)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vgg16-397923af.pth").touch()
    distance = LPIPS().build(None, X.device)
    torch.testing.assert_close(distance(X, -X), (2 * X).square().flatten(1).mean(1))


# The adversary


def contested(kind: str = "kl", **fields: Any) -> tuple[Codec, Any]:
    model = codec(kind)
    adversarial = {"start": 2, "discriminator": DISCRIMINATOR, **fields}
    return model, parse(Autoencoding, {"adversarial": adversarial}).build(model)


def played(model: Codec, objective: Any, player: str, step: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = objective(model, Batch(x0=X), Progress(step, 10), draws(step), player)
    return found


def test_nobody_plays_before_the_start() -> None:
    model, objective = contested()
    assert isinstance(objective, Playing)
    assert list(objective.players) == ["discriminator"]
    assert list(played(model, objective, "model", 1)) == ["reconstruction", "kl", "adversarial"]
    assert not played(model, objective, "model", 1)["adversarial"].any()
    idle = played(model, objective, "discriminator", 1)["discriminator"]
    assert not idle.any()
    assert not idle.requires_grad
    plain = losses(model, step=1)
    for name, value in plain.items():
        assert torch.equal(played(model, objective, "model", 1)[name], value)
    assert played(model, objective, "discriminator", 2)["discriminator"].requires_grad


def test_the_adversarys_gradient_is_a_share_of_the_others_whatever_its_size() -> None:
    """Ten times its loss, the same gradient: w_d times that of the reconstruction, at the decoder's last layer."""
    model, objective = contested(weight=0.7)
    layer, head = model.network.last_layer, objective.discriminator.get_submodule("head")
    norms = []
    for factor in (1.0, 10.0):
        with torch.no_grad():
            head.weight.mul_(factor)
            head.bias.mul_(factor)
        found = played(model, objective, "model", 5)
        (adversary,) = torch.autograd.grad(found["adversarial"].mean(), layer, retain_graph=True)
        (others,) = torch.autograd.grad(found["reconstruction"].mean(), layer)
        norms.append(adversary.norm())
        torch.testing.assert_close(adversary.norm(), 0.7 * others.norm(), rtol=1e-2, atol=0)
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-2, atol=0)


def test_the_weight_is_detached_and_bounded() -> None:
    layer = torch.ones(3, requires_grad=True)
    weight = adaptive_weight(layer.sum(), 0.0 * layer.sum(), layer, 0.5)
    assert not weight.requires_grad
    torch.testing.assert_close(weight, torch.tensor(0.5 * 1e4))
    torch.testing.assert_close(
        adaptive_weight(layer.sum(), 4 * layer.sum(), layer, 0.5), torch.tensor(0.5 / 4), rtol=1e-4, atol=0
    )


def test_the_hinges_vanish_for_a_discriminator_that_wins() -> None:
    real, made = torch.full((2, 1, 3, 3), 1.5), torch.full((2, 1, 3, 3), -2.0)
    torch.testing.assert_close(hinge(real, made), torch.zeros(2))
    torch.testing.assert_close(hinge(made, real), torch.full((2,), 0.5 * (3.0 + 2.5)))
    torch.testing.assert_close(pull(made), torch.full((2,), 2.0))


def test_the_discriminators_turn_leaves_the_model_alone() -> None:
    model, objective = contested()
    played(model, objective, "discriminator", 5)["discriminator"].mean().backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in objective.discriminator.parameters())


def test_latents_are_counted_in_the_models_turn_alone() -> None:
    model, objective = contested("vq")
    played(model, objective, "discriminator", 5)
    assert list(objective.gathered(model)) == []
    played(model, objective, "model", 5)
    (counted,) = objective.gathered(model)
    assert counted[:, 0].sum() == 4 * 6 * 6  # all latents of the batch
    model.eval()
    played(model, objective, "model", 5)
    assert torch.equal(objective.gathered(model)[0], counted)
    assert objective.after_step(model, Progress(5, 10)).keys() == {"codebook_usage", "codebook_perplexity"}
    assert list(objective.gathered(model)) == []


def test_a_discriminator_of_groups_sees_each_image_alone_and_one_of_batches_does_not() -> None:
    for norm, alone in (("group", True), ("batch", False)):
        network = PatchDiscriminator(width=8, layers=2, norm=norm).build(1).train()
        together, apart = network(X), torch.cat([network(x[None]) for x in X])
        assert together.shape == (4, 1, 1, 1)
        assert torch.allclose(together, apart, atol=1e-5) == alone


def test_images_without_a_patch_are_refused_at_the_right_size() -> None:
    for layers in (1, 2, 3):
        part = PatchDiscriminator(width=8, layers=layers)
        least = 3 * 2**layers
        assert part.build(1)(torch.zeros(2, 1, least, least)).shape == (2, 1, 1, 1)
        part.check((1, least, least))
        with pytest.raises(UsageError, match=rf"layers = {layers} sees no patch in images of {least - 1}x{least}"):
            part.check((1, least - 1, least))
