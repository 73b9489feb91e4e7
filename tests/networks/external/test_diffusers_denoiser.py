"""Class-conditional diffusers networks in a denoiser: the same estimates as their raw calls, guided and not."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from torch import Tensor, nn

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.models.conditioner import LabelNumber
from suffuse.models.denoiser import Denoiser
from suffuse.networks.external import DiffusersNetwork
from suffuse.networks.part import seeded
from suffuse.process import VP, Eps
from suffuse.sampling.guidance import CFG
from suffuse.sampling.solvers.base import Estimate

CLASSES, T = 4, 500
LABELS = torch.tensor([1, 3, 0])


def dit() -> nn.Module:
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        out_channels=6,  # the learned variance, as in peebles2023dit
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=CLASSES,
    )


def unet() -> nn.Module:
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=CLASSES,
    )


def wrapped(model: nn.Module, *, null: bool) -> tuple[Denoiser, nn.Module]:
    """A denoiser around a model whose output depends on all its weights, and the model."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    network = DiffusersNetwork(model)
    conditioner = LabelNumber(classes=CLASSES, null=null).build(network.cond_width)
    return Denoiser(network, path=VP(steps=1000), prediction=Eps(), conditioner=conditioner).eval(), model


@pytest.fixture
def transformer() -> tuple[Denoiser, nn.Module]:
    with seeded(0):
        return wrapped(dit(), null=True)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def raw_estimate(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Estimate of x0 by ho2020ddpm, Eq. 15, from the model's own call and a table of betas written out here."""
    with torch.no_grad():
        eps = model(x, torch.full((3,), T), class_labels=labels).sample[:, :3]
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[T].item()
    return (x - (1 - kept) ** 0.5 * eps) / kept**0.5


def guided(denoiser: Denoiser, x: Tensor, guidance: CFG) -> Tensor:
    def denoise(x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
        return Estimate(denoiser.denoise(x, t, cond, call))

    with torch.no_grad():
        return guidance.bind(denoise, denoiser.path)(x, float(T), Conditions.of(label=LABELS), Call()).x0


@torch.no_grad()
def test_a_dit_with_learned_variance_gives_its_raw_estimates(
    transformer: tuple[Denoiser, nn.Module], x: Tensor
) -> None:
    denoiser, model = transformer
    given = Conditions.of(label=LABELS)
    found = denoiser.evaluate(x, float(T), given)
    torch.testing.assert_close(found.denoised, raw_estimate(model, x, LABELS))
    assert torch.equal(found.aux["variance"], model(x, torch.full((3,), T), class_labels=LABELS).sample[:, 3:])
    nothing = torch.full((3,), CLASSES)
    for cond in (None, given.absent()):
        torch.testing.assert_close(denoiser.denoise(x, float(T), cond), raw_estimate(model, x, nothing))
    mixed = given.drop(torch.tensor([False, True, False]))
    torch.testing.assert_close(denoiser.denoise(x, float(T), mixed), raw_estimate(model, x, torch.tensor([1, 4, 0])))
    assert not torch.allclose(found.denoised, denoiser.denoise(x, float(T)), atol=1e-3), "labels matter"


def test_both_halves_of_guidance_are_the_dit_s_own(transformer: tuple[Denoiser, nn.Module], x: Tensor) -> None:
    denoiser, model = transformer
    together, apart = (guided(denoiser, x, CFG(scale=3, together=joined)) for joined in (True, False))
    # A batch of six multiplies its matrices in another order than two of three.
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    uncond = raw_estimate(model, x, torch.full((3,), CLASSES))
    torch.testing.assert_close(apart, uncond + 3 * (raw_estimate(model, x, LABELS) - uncond), rtol=1e-4, atol=1e-5)


def test_a_unet_takes_labels_and_refuses_their_absence(x: Tensor) -> None:
    with seeded(0):
        denoiser, model = wrapped(unet(), null=False)
    with torch.no_grad():
        found = denoiser.denoise(x, float(T), Conditions.of(label=LABELS))
    torch.testing.assert_close(found, raw_estimate(model, x, LABELS))
    told = "no row for 'no class'; give every sample a label, and sample without guidance"
    with pytest.raises(UsageError, match=told):
        denoiser.denoise(x, float(T))
    for joined in (True, False):
        with pytest.raises(UsageError, match=told):
            guided(denoiser, x, CFG(scale=3, together=joined))
    assert torch.equal(guided(denoiser, x, CFG(scale=1)), found)
