"""Refining: both forms are one, the first stage stays frozen, vectors are drawn by key from a fitted density."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.latent_density import LatentDensity
from suffuse.models.reconstruction import Reconstruction, ReconstructionConditioner
from suffuse.networks import MLP, Network, Output, UNet, VectorVAE
from suffuse.process import VP, Eps, Flow, FlowVelocity
from suffuse.sampling import DDIM, DDPM, Uniform, sample

VAE = VectorVAE(channels=4, multipliers=(1, 2), blocks=1, latent_channels=3, groups=2, attention=False)
UNET = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), mid_attention=False, groups=4)


def model_of(form: int = 1, flow: bool = False, steps: int = 100) -> Denoiser:
    config = ModelConfig(
        network=UNET,
        shape=(1, 8, 8),
        path=Flow() if flow else VP(steps=steps),
        prediction=FlowVelocity() if flow else Eps(),
        conditioner=Reconstruction(network=VAE, form=form),
    )
    model = config.build()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


class _Shifted(Network):
    """f2(x, y) = f1(x - y, y)."""

    def __init__(self, inner: Network) -> None:
        super().__init__()
        self.inner, self.graph, self.widths, self.cond_width = inner, inner.graph, inner.widths, inner.cond_width

    def forward(
        self,
        x: Tensor,
        told: Tensor,
        cond: Embedding | None = None,
        *,
        seeds: Tensor | None = None,
        taps: tuple[str, ...] = (),
        given: Mapping[str, Tensor] | None = None,
    ) -> Output:
        return self.inner(torch.cat([x[:, :1] - x[:, 1:2], x[:, 1:]], 1), told, cond, seeds=seeds)


@pytest.mark.parametrize("solver", [DDPM(), DDIM()])
@pytest.mark.parametrize("flow", [False, True])
def test_the_second_form_is_the_first_with_the_image_added_to_its_input(solver: DDIM | DDPM, flow: bool) -> None:
    first, second = model_of(1, flow), model_of(2, flow)
    second.network = _Shifted(second.network)
    second.network.inner.load_state_dict(first.network.state_dict())
    second.conditioner.load_state_dict(first.conditioner.state_dict())
    cond = Conditions.of(latent=torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(1)))
    made = [sample(model, 4, solver=solver, grid=Uniform(steps=5), cond=cond, seed=3).x for model in (first, second)]
    torch.testing.assert_close(made[0], made[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("solver", [DDPM(), DDIM()])
def test_without_an_image_both_forms_are_the_unconditional_sampler(solver: DDIM | DDPM) -> None:
    first, second = model_of(1), model_of(2)
    second.network.load_state_dict(first.network.state_dict())
    second.conditioner.load_state_dict(first.conditioner.state_dict())
    absent = Conditions.of(latent=torch.ones(4, 3, 1, 1)).absent()
    made = [sample(model, 4, solver=solver, grid=Uniform(steps=5), cond=absent, seed=3).x for model in (first, second)]
    assert torch.equal(made[0], made[1])
    nothing = sample(first, 4, solver=solver, grid=Uniform(steps=5), cond=Conditions(), seed=3).x
    assert torch.equal(made[0], nothing)


class _ToldGaussian(_Shifted):
    """The best noise estimate where x given y is normal about y / 2 with deviation 0.3, for either form."""

    def __init__(self, inner: Network, form: int) -> None:
        super().__init__(inner)
        self.form = form

    def forward(self, x: Tensor, told: Tensor, cond: Embedding | None = None, **others: object) -> Output:
        noisy, y = x[:, :1].double(), x[:, 1:2].double()
        noisy = noisy - y if self.form == 2 else noisy
        level = VP(steps=1000).level(told.double(), noisy)
        eps = level.sigma * (noisy - level.alpha * y / 2) / (level.alpha**2 * 0.3**2 + level.sigma**2)
        return Output(eps.to(x), {})


@pytest.mark.parametrize("form", [1, 2])
@pytest.mark.parametrize("solver", [DDPM(), DDIM()])
def test_samples_are_of_the_law_given_the_image(solver: DDIM | DDPM, form: int) -> None:
    model = model_of(form, steps=1000)
    model.network = _ToldGaussian(model.network, form)
    live = model.conditioner
    assert isinstance(live, ReconstructionConditioner)
    count = 100
    latent = torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(1)).expand(count, -1, -1, -1)
    drawn = sample(model, count, solver=solver, grid=Uniform(steps=300), cond=Conditions.of(latent=latent), batch=count)
    rest = drawn.x - live.images(latent[:1]) / 2
    error = 4.5 * 0.3 / count**0.5  # 64 pixels are looked at
    torch.testing.assert_close(rest.mean(0), torch.zeros(1, 8, 8), atol=error, rtol=0)
    assert rest.std().item() == pytest.approx(0.3, rel=0.06)  # DDPM's 300 steps lose 3 %


def test_what_is_put_beside_the_sample() -> None:
    live = model_of().conditioner
    assert isinstance(live, ReconstructionConditioner)
    latent = torch.randn(3, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    cond = Conditions.of(latent=latent).drop(torch.tensor([False, True, False]))
    image = live(cond, 3).image
    assert torch.equal(image[0, :1], live.images(latent)[0])
    assert not image[1].any()
    assert image[:, 1].mean((1, 2)).tolist() == [1, 0, 1]
    assert live(cond, 3).shift is None
    assert not live(Conditions(), 2).image.any()


def test_in_training_the_vector_is_drawn_anew_from_the_posterior() -> None:
    live = model_of().conditioner
    assert isinstance(live, ReconstructionConditioner)
    x0 = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    cond = live.observe(x0, Conditions())
    one, two = (live.latents(x0, keys(0, "test", step, torch.arange(2))) for step in (0, 1))
    mean, log_variance = live.first.moments(x0)
    assert not torch.equal(one, two)
    assert torch.equal(live.latents(x0, None), mean)
    assert ((one - mean) / (0.5 * log_variance).exp()).abs().max() < 5
    seeds = keys(0, "test", 0, torch.arange(2))
    assert torch.equal(live(cond, 2, seeds).image[:, :1], live.images(one))


def test_the_first_stage_is_frozen() -> None:
    model = model_of().train()
    live = model.conditioner
    assert isinstance(live, ReconstructionConditioner)
    assert not any(p.requires_grad for p in live.parameters())
    assert not any(module.training for module in live.first.modules())


def test_samples_of_which_nothing_is_asked_have_a_vector_by_their_key() -> None:
    live = model_of().conditioner
    many = live.drawn(keys(0, "conditions", 0, torch.arange(8)))
    alone = live.drawn(keys(0, "conditions", 0, torch.tensor([5])))
    assert many is not None
    assert alone is not None
    torch.testing.assert_close(many.values["latent"][5:6], alone.values["latent"])


def test_a_fitted_mixture_draws_as_its_data() -> None:
    generator = torch.Generator().manual_seed(0)
    which = torch.rand(4000, generator=generator) < 0.3
    spread = torch.tensor([[1.0, 0.8], [0.0, 0.6]])
    data = torch.where(which[:, None], torch.tensor([5.0, -5.0]), torch.tensor([-2.0, 2.0]))
    data = data + torch.randn(4000, 2, generator=generator) @ spread
    density = LatentDensity(components=2).build(2)
    before = density.draw(keys(0, "test", 0, torch.arange(4000)))
    torch.testing.assert_close(before.std(0), torch.ones(2), atol=0.05, rtol=0)
    density.fit(data)
    drawn = density.draw(keys(0, "test", 0, torch.arange(4000)))
    torch.testing.assert_close(drawn.mean(0), data.mean(0), atol=0.2, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), data.T.cov(), atol=0.7, rtol=0)
    assert (drawn[:, 0] > 2).float().mean().item() == pytest.approx(0.3, abs=0.03)
    normal = LatentDensity(family="normal").build(2)
    normal.fit(data)
    torch.testing.assert_close(normal.means, torch.zeros(1, 2))
    with pytest.raises(UsageError, match="a mixture of 10 Gaussians cannot be fitted to 5 latents"):
        LatentDensity().build(2).fit(data[:5])


def test_other_samples_are_refused() -> None:
    with pytest.raises(Exception, match="an autoencoder takes images"):
        ModelConfig(
            network=MLP(), shape=(2,), path=Flow(), prediction=FlowVelocity(), conditioner=Reconstruction(network=VAE)
        )
    with pytest.raises(UsageError, match=r"condition 'latent' has shape \(4, 1, 1\)"):
        model_of().conditioner.check(Conditions.of(latent=torch.zeros(1, 4, 1, 1)))
