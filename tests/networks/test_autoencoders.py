"""Autoencoders of every kind: shapes, equal seeds, no sample changed by its batch, and what each is built for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.networks import (
    AutoencoderPart,
    CodebookSettings,
    ConvNeXtAutoencoder,
    KLAutoencoder,
    TinyAutoencoder,
    VectorVAE,
    VQAutoencoder,
)
from suffuse.networks.autoencoders import Autoencoder, AutoencoderNetwork
from suffuse.networks.autoencoders.convnext import GatedBlock
from suffuse.networks.part import seeded
from suffuse.training.joints import JOINTS

CODES = CodebookSettings(size=6)
KINDS: dict[str, AutoencoderPart] = {
    "kl": KLAutoencoder(channels=8, multipliers=(1, 2), blocks=1, groups=4),
    "vq": VQAutoencoder(channels=8, multipliers=(1, 2), blocks=1, groups=4, codebook=CODES, inner_channels=3),
    "convnext_vq": ConvNeXtAutoencoder(channels=8, levels=1, blocks=2, codebook=CODES),
    "vector": VectorVAE(channels=8, multipliers=(1, 2), blocks=1, groups=4, latent_channels=5),
    "tiny": TinyAutoencoder(channels=8, decoder_channels=8, blocks=(1, 1), decoder_blocks=(1, 1)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
SHAPE = (2, 8, 12)
IMAGES = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def built(kind: str, seed: int = 0) -> AutoencoderNetwork:
    return KINDS[kind].build(SHAPE, seed=seed).eval()


def test_all_kinds_are_tried_here() -> None:
    """But a compressor, which has no way back: it is tried with the denoiser that decodes its codes."""
    assert KINDS.keys() == JOINTS["autoencoder"].parts.keys() - {"compressor"}
    assert Autoencoder


@every_kind
@torch.no_grad()
def test_latents_have_the_shape_that_was_said(kind: str) -> None:
    network, shape = built(kind), KINDS[kind].latent_shape(SHAPE)
    mean, log_variance = network.moments(IMAGES)
    assert mean.shape == (3, *shape)
    assert (log_variance is None) == (kind not in ("kl", "vector"))
    assert log_variance is None or log_variance.shape == mean.shape
    assert network.decode(mean).shape == IMAGES.shape
    assert shape == ((5, 1, 1) if kind == "vector" else (4, 4, 6))
    assert KINDS[kind].factor == 2


@every_kind
def test_equal_seeds_give_equal_weights(kind: str) -> None:
    one, two, other = (built(kind, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@every_kind
@torch.no_grad()
def test_a_batch_changes_no_sample(kind: str) -> None:
    network = built(kind)
    together = network.decode(network.moments(IMAGES)[0])
    alone = torch.cat([network.decode(network.moments(image[None])[0]) for image in IMAGES])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@every_kind
def test_the_last_layer_is_the_last_to_act_on_the_images(kind: str) -> None:
    """Twice the weight is twice the image, up to what does not depend on it."""
    network = built(kind)
    layer = network.last_layer
    assert any(layer is p for p in network.parameters())
    with torch.no_grad():
        z = torch.randn(2, *KINDS[kind].latent_shape(SHAPE), generator=torch.Generator().manual_seed(1))
        once, zero = network.images(z), scaled(network, z, 0.0)
        torch.testing.assert_close(scaled(network, z, 2.0) - zero, 2 * (once - zero), atol=1e-5, rtol=1e-5)


def scaled(network: AutoencoderNetwork, z: Tensor, factor: float) -> Tensor:
    before = network.last_layer.clone()
    network.last_layer.mul_(factor)
    images = network.images(z)
    network.last_layer.copy_(before)
    return images


@every_kind
def test_images_that_cannot_be_encoded_are_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=r"images of 9x8 cannot be .*choose another size, a multiple of 2, or fewer"):
        KINDS[kind].build((1, 9, 8))
    with pytest.raises(UsageError, match=r"takes images \(C, H, W\), but the data have shape \(2,\)"):
        KINDS[kind].latent_shape((2,))


@pytest.mark.parametrize("kind", ["vq", "convnext_vq"])
@torch.no_grad()
def test_what_is_decoded_is_rounded_unless_told_not_to(kind: str) -> None:
    network = built(kind)
    assert network.codebook is not None
    assert network.quantises == (kind == "vq")  # Wuerstchen's stage B models latents that nothing rounds
    z = network.moments(IMAGES)[0]
    rounded, free = network.images(network.codebook(z).value), network.images(z)
    assert not torch.equal(rounded, free)
    assert torch.equal(network.decode(z), rounded if kind == "vq" else free)
    assert torch.equal(network.decode(z, quantise=False), free)
    network.quantises = not network.quantises
    assert torch.equal(network.decode(z), free if kind == "vq" else rounded)


def test_a_fresh_gated_block_is_the_identity_and_a_trained_one_is_not() -> None:
    with seeded(0):
        block, x = GatedBlock(6), torch.randn(2, 6, 5, 7)
    assert torch.equal(block(x), x)
    with torch.no_grad():
        block.gammas.fill_(0.3)
    assert not torch.allclose(block(x), x)


def test_fresh_gates_learn() -> None:
    """At zero the gains get gradients, so that a block leaves the identity."""
    with seeded(0):
        block, x = GatedBlock(6), torch.randn(2, 6, 5, 7)
    block(x).square().sum().backward()
    assert block.gammas.grad is not None
    assert bool((block.gammas.grad[[2, 5]] != 0).all())


def test_an_odd_width_of_the_gated_levels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"channels = 6 cannot be halved 2 times"):
        ConvNeXtAutoencoder(channels=6, levels=3)
    with pytest.raises(ValueError, match=r"blocks has 2 levels and decoder_blocks 1; give both as many"):
        TinyAutoencoder(blocks=(1, 1), decoder_blocks=(1,))
