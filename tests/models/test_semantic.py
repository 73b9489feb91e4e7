"""The semantic code: from the image or given, absent, corrupted in training alone, and trained through the denoiser."""

from __future__ import annotations

import pytest
import torch

from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys
from suffuse.models.config import ModelConfig
from suffuse.models.semantic import Semantic
from suffuse.models.text import Text
from suffuse.networks import DiffNeXt
from suffuse.networks.autoencoders import Compressor
from suffuse.process import ClampedCosine, Eps
from suffuse.process.corruption import Corruption

PART = Semantic(
    compressor=Compressor(widths=(8, 8), latent_channels=4),
    reader=Text(width=8, depth=1, heads=2, length=6, vocabulary=300),
    image_shape=(3, 16, 16),
)
IMAGES = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
SEEDS = keys(0, "test", 0, torch.arange(5))


def test_a_code_is_taken_as_it_is_and_an_image_is_encoded() -> None:
    live = PART.build(8).eval()
    code = live.encode(IMAGES)
    assert code.shape == (5, 4, 4, 4)
    assert torch.equal(live(Conditions.of(image=IMAGES), 5).map, code)
    assert torch.equal(live(Conditions.of(code=code), 5).map, code)
    dropped = Conditions.of(image=IMAGES).drop(torch.tensor([True, False, False, False, False]))
    found = live(dropped, 5).map
    assert not found[0].any()
    assert torch.equal(found[1:], code[1:])
    nothing = live(Conditions(), 2)
    assert nothing.map.shape == (2, 4, 4, 4)
    assert not nothing.map.any()
    assert nothing.tokens.shape[2] == 8


def test_codes_are_corrupted_in_training_alone() -> None:
    live = PART.replace(corruption=Corruption(drop=0.4, noise=1.0)).build(8)
    cond = Conditions.of(code=torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(1)))
    code = cond.values["code"]
    assert not torch.equal(live.train()(cond, 5, SEEDS).map, code)
    assert torch.equal(live.train()(cond, 5).map, code), "without keys nothing is random"
    assert torch.equal(live.eval()(cond, 5, SEEDS).map, code)


def test_text_and_code_are_hidden_independently_in_training() -> None:
    count = 4000
    part = PART.replace(corruption=Corruption(drop=0.2, noise=0.0), text_dropout=0.3)
    cond = Conditions.of(
        code=torch.ones(count, 4, 1, 1),
        caption=torch.ones(count, 2, dtype=torch.int64),
    )
    live, many = part.build(8), keys(0, "test", 0, torch.arange(count))
    shown, alone = live.eval()(cond, count, many), live.eval()(Conditions(), 1)
    assert shown.map.all()
    with torch.no_grad():
        told = live.train()(cond, count, many)
    # A text that is left out is the one learned token.
    no_text = (told.tokens[:, 0] == alone.tokens[0, 0]).all(dim=1)
    no_code = ~told.map.flatten(1).any(dim=1)
    for found, wanted in (
        (no_text & no_code, 0.06),
        (no_text & ~no_code, 0.24),
        (~no_text & no_code, 0.14),
        (~no_text & ~no_code, 0.56),
    ):
        error = (wanted * (1 - wanted) / count) ** 0.5
        assert abs(found.double().mean().item() - wanted) < 4 * error
    assert torch.equal(live.train()(cond, count).tokens, shown.tokens), "without keys nothing is random"


def test_codes_have_unit_variance_in_training() -> None:
    live = PART.build(8).train()
    code = live.encode(IMAGES)
    torch.testing.assert_close(code.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(code.std((0, 2, 3), unbiased=False), torch.ones(4), atol=1e-3, rtol=0)


def test_the_denoiser_trains_its_compressor() -> None:
    network = DiffNeXt(
        widths=(8, 8),
        blocks=(1, 1),
        layout=("CT", "CTA"),
        heads=(0, 2),
        inject=(True, True),
        patch=1,
        context_width=8,
        frequencies=8,
        dropout=0.0,
    )
    config = ModelConfig(network=network, shape=(4, 4, 4), path=ClampedCosine(), prediction=Eps(), conditioner=PART)
    assert config.network == network.replace(map_channels=4, token_width=8)
    model = config.build().train()
    x = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for parameter in model.network.parameters():  # outputs start at zero
            parameter += 0.1
    model.denoise(x, torch.full((5,), 0.5), Conditions.of(image=IMAGES)).square().mean().backward()
    grads = [p.grad for p in model.conditioner.compressor.parameters()]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_other_shapes_are_refused() -> None:
    live = PART.build(8)
    with pytest.raises(UsageError, match=r"condition 'code' has shape \(3, 4, 4\), but this model takes \(4, 4, 4\)"):
        live.check(Conditions.of(code=torch.zeros(1, 3, 4, 4)))
    live.check(Conditions.of(code=torch.zeros(1, 4, 2, 6)))  # of an image of other sides
    with pytest.raises(UsageError, match="images of 18x18 cannot be made 4 times smaller by the compressor"):
        PART.seeing((3, 18, 18))
    with pytest.raises(UsageError, match="a compressor's code has no decoder"):
        PART.compressor.build((3, 16, 16)).decode(torch.zeros(1, 4, 4, 4))
    with pytest.raises(UsageError, match="efficientnet_v2_s takes 3 channels, not 1"):
        Compressor(backbone="efficientnet_v2_s").latent_shape((1, 64, 64))


def test_images_are_brought_to_the_size_that_is_encoded() -> None:
    part = Compressor(widths=(8, 8), latent_channels=4, size=8)
    assert part.latent_shape((3, 16, 16)) == (4, 2, 2)
    assert part.build((3, 16, 16)).eval().moments(IMAGES)[0].shape == (5, 4, 2, 2)


def test_an_absent_compressor_has_codes_but_no_weights() -> None:
    part = Compressor(backbone="absent", latent_channels=4, size=96)
    assert part.latent_shape((3, 16, 16)) == (4, 3, 3)
    live = PART.replace(compressor=part).build(8)
    assert not list(live.compressor.state_dict())
    assert live(Conditions.of(code=torch.ones(2, 4, 3, 3)), 2).map.shape == (2, 4, 3, 3)
    with pytest.raises(UsageError, match=r"compressor of this model is absent.*train stage B"):
        live(Conditions.of(image=IMAGES), 5)
