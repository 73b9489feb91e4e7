"""Codecs: latents of one scale, and images back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.models.codec import Codec, CodecConfig
from suffuse.models.config import ModelConfig
from suffuse.models.pretrained import load_codec, load_model, save_model
from suffuse.networks import MLP, KLAutoencoder
from suffuse.process import VP, Eps

SMALL = KLAutoencoder(channels=8, multipliers=(1, 2), blocks=1, latent_channels=3, groups=4)
IMAGES = torch.rand(5, 1, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def codec() -> Codec:
    return CodecConfig(network=SMALL, shape=(1, 8, 12)).build(seed=1).eval()


def test_latents_are_smaller_by_the_factor(codec: Codec) -> None:
    assert SMALL.factor == 2
    with torch.no_grad():
        latents = codec.encode(IMAGES)
        assert latents.shape == (5, *SMALL.latent_shape((1, 8, 12))) == (5, 3, 4, 6)
        assert codec.decode(latents).shape == IMAGES.shape


def test_equal_seeds_give_equal_weights_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    config = CodecConfig(network=SMALL, shape=(1, 8, 12))
    one, two, other = (config.build(seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(before, torch.get_rng_state())


@torch.no_grad()
def test_standardised_latents_have_the_deviation_asked_for_and_decode_to_the_same(codec: Codec) -> None:
    raw = codec.encode(IMAGES)
    image = codec.decode(raw)
    codec.standardise(raw.mean((0, 2, 3)), raw.std((0, 2, 3)), 0.5)
    latents = codec.encode(IMAGES)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.full((3,), 0.5))
    torch.testing.assert_close(codec.decode(latents), image, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_batch_changes_no_sample(codec: Codec) -> None:
    together, alone = codec.encode(IMAGES), torch.cat([codec.encode(image[None]) for image in IMAGES])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_saved_codec_is_the_same_measured_numbers_included(codec: Codec, tmp_path: Path) -> None:
    codec.standardise(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 0.2, 0.3]), 0.5)
    assert codec.config is not None
    save_model(tmp_path, codec.config, codec.state_dict(), {})
    again = load_codec(tmp_path)
    assert again.config == codec.config
    with torch.no_grad():
        assert torch.equal(again.encode(IMAGES), codec.encode(IMAGES))
    assert not any(p.requires_grad for p in again.parameters())


def test_a_codec_is_no_model_of_samples_and_the_other_way_round(codec: Codec, tmp_path: Path) -> None:
    assert codec.config is not None
    save_model(tmp_path / "codec", codec.config, codec.state_dict(), {})
    with pytest.raises(UsageError, match=r"is an autoencoder, which makes no samples.*codec\.run="):
        load_model(tmp_path / "codec")
    config = ModelConfig(network=MLP(width=4, depth=1), shape=(2,), path=VP(), prediction=Eps())
    save_model(tmp_path / "model", config, config.build().state_dict(), {})
    with pytest.raises(UsageError, match="is no autoencoder; give"):
        load_codec(tmp_path / "model")


def test_images_that_cannot_be_encoded_are_refused() -> None:
    with pytest.raises(UsageError, match=r"images of 9x8 cannot be halved 1 times.*multiple of 2"):
        CodecConfig(network=SMALL, shape=(1, 9, 8)).build()
    with pytest.raises(UsageError, match=r"takes images \(C, H, W\), but the data have shape \(2,\)"):
        SMALL.latent_shape((2,))
    with pytest.raises(ValueError, match=r"groups = 3 does not divide 8 \* 1 channels"):
        KLAutoencoder(channels=8, groups=3)
