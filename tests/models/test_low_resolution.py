"""Super-resolution by concatenation: what is made of images, what the network sees of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from suffuse.base.batch import Batch
from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.randomness import Draws, derived, keys, normal
from suffuse.models.conditioner import ClassLabel, ConditionerPart, NoCondition
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.low_resolution import Augmentation, LowResolution, downsampled
from suffuse.models.pretrained import load_model, save_model
from suffuse.networks import MLP, DiT, NetworkConfig, UNet
from suffuse.objectives import Denoising, Progress
from suffuse.process import EDM, VP, EDMPrediction, Eps, LogSigma, SharedTimesteps, V
from suffuse.sampling import CFG, DDIM, Uniform, sample

SHAPE = (3, 8, 8)
UNET = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4, zero_init=False)
DIT = DiT(width=16, depth=1, heads=2, patch=2)


def config(network: NetworkConfig = UNET, **changes: object) -> ModelConfig:
    fields = {"network": network, "shape": SHAPE, "path": VP(steps=100), "prediction": V()}
    return ModelConfig(**{**fields, "conditioner": LowResolution(factor=2), **changes})  # type: ignore[arg-type]


def built(seed: int = 0, **changes: object) -> Denoiser:
    """A model whose output is not zero."""
    return config(**changes).build(seed=seed).eval()


def pictures(n: int = 4, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return (
        Draws(0, torch.arange(n)).uniform("pictures", shape[0] * shape[1] * shape[2]).float().reshape(n, *shape) * 2 - 1
    )


def small(n: int = 4) -> Tensor:
    return downsampled(pictures(n), 2)


# What is made of images


@pytest.mark.parametrize("factor", [2, 4])
def test_small_pixels_are_the_means_of_blocks(factor: int) -> None:
    x = pictures(2, (3, 8, 12))
    found = downsampled(x, factor)
    assert found.shape == (2, 3, 8 // factor, 12 // factor)
    torch.testing.assert_close(found[1, 2, 0, 1], x[1, 2, :factor, factor : 2 * factor].mean())
    # What is enlarged by repeating comes back: the means are of whole blocks and of nothing else.
    repeated = found.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    torch.testing.assert_close(downsampled(repeated, factor), found)


def test_they_are_observed_in_the_data_and_nothing_given_is_replaced() -> None:
    conditioner, x0 = LowResolution(factor=2).build(0, SHAPE), pictures()
    label = Conditions.of(label=torch.arange(4))
    seen = conditioner.observe(x0, label)
    assert torch.equal(seen.values["low_res"], downsampled(x0, 2))
    assert bool(seen.present["low_res"].all())
    assert torch.equal(seen.values["label"], torch.arange(4))
    assert set(label.values) == {"label"}, "conditions are values: the batch's own are as they were"
    given = Conditions.of(low_res=small() * 0.5).drop(torch.tensor([True, False, False, False]))
    assert conditioner.observe(x0, given) is given, "companions of the data's own, and their absence, are kept"
    assert (conditioner.reads, conditioner.observes) == (("low_res",), ("low_res",))


@pytest.mark.parametrize("part", [NoCondition(), ClassLabel(classes=4)], ids=lambda part: part.kind)
def test_others_observe_nothing_and_put_nothing_beside(part: ConditionerPart) -> None:
    conditioner, cond, x = part.build(8, SHAPE), Conditions.of(label=torch.arange(4)), pictures()
    assert conditioner.observe(x, cond) is cond
    assert conditioner.observes == ()
    assert conditioner(cond, 4).beside(x) is x, "bit for bit what it was"
    assert part.extra_channels(SHAPE) == 0


# What the network sees


def image_of(conditioner: torch.nn.Module, cond: Conditions, n: int) -> Tensor:
    image = conditioner(cond, n).image
    assert isinstance(image, Tensor)
    return image


def test_the_enlarged_image_is_bilinear_between_the_blocks_centres() -> None:
    """By hand, of the four pixels a b / c d: a fine pixel lies a quarter of a block off its own block's centre."""
    low = torch.tensor([[[[0.0, 1.0], [-1.0, 0.5]]]])
    image = image_of(LowResolution(factor=2).build(0, (1, 4, 4)), Conditions.of(low_res=low), 1)
    a, b, c, d = low.flatten().tolist()
    assert image.shape == (1, 2, 4, 4)
    assert image[0, 0, 0, 0].item() == a
    assert image[0, 0, 0, 1].item() == 0.75 * a + 0.25 * b
    assert image[0, 0, 1, 2].item() == 0.75 * (0.25 * a + 0.75 * b) + 0.25 * (0.25 * c + 0.75 * d)
    assert image[0, 0, 3, 3].item() == d


def test_absence_is_zeros_and_is_told_apart_from_a_grey_image() -> None:
    conditioner, grey = LowResolution(factor=2).build(0, SHAPE), torch.zeros(2, 3, 4, 4)
    present = image_of(conditioner, Conditions.of(low_res=grey), 2)
    assert torch.equal(present[:, :3], torch.zeros(2, 3, 8, 8))
    assert torch.equal(present[:, 3], torch.ones(2, 8, 8))
    anything = Conditions.of(low_res=torch.full((2, 3, 4, 4), torch.nan)).absent()
    for nothing in (Conditions(), anything, Conditions.of(label=torch.arange(2))):
        assert torch.equal(image_of(conditioner, nothing, 2), torch.zeros(2, 4, 8, 8))
    hidden = Conditions.of(low_res=small(2)).drop(torch.tensor([True, False]))
    image = image_of(conditioner, hidden, 2)
    assert not image[0].any()
    assert torch.equal(image[1], image_of(conditioner, Conditions.of(low_res=small(2)), 2)[1])


def test_it_is_put_behind_the_scaled_sample_and_not_scaled_itself() -> None:
    model, seen = built(path=EDM(), prediction=EDMPrediction(), time=LogSigma(), sigma_data=0.6), []
    model.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x, cond = pictures(), Conditions.of(low_res=small())
    found = model.evaluate(x, 0.8, cond)
    assert found.denoised.shape == x.shape
    torch.testing.assert_close(seen[0][:, :3], x)  # c_in = (0.8**2 + 0.6**2)**-0.5 = 1
    model.evaluate(x, 8.0, cond)
    torch.testing.assert_close(seen[1][:, :3], x / (8.0**2 + 0.6**2) ** 0.5)
    for inputs in seen:
        assert torch.equal(inputs[:, 3:], image_of(model.conditioner, cond, 4))
    half = Embedding(image=torch.ones(1, 1, 2, 2)).beside(torch.zeros(1, 1, 2, 2, dtype=torch.float64))
    assert half.dtype == torch.float64, "the sampler's dtype decides"


@pytest.mark.parametrize("network", [UNET, DIT], ids=lambda part: part.kind)
def test_the_estimate_depends_on_the_image_and_on_its_presence(network: NetworkConfig) -> None:
    model, x = built(network=network), pictures()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # a fresh DiT is the zero map
            parameter.add_(0.1 * Draws(0, torch.arange(1)).normal(name, tuple(parameter.shape))[0])
        cond, other = Conditions.of(low_res=small()), Conditions.of(low_res=small().flip(3))
        given = model.denoise(x, 50.0, cond)
        assert not torch.allclose(given, model.denoise(x, 50.0, other), atol=1e-3)
        assert not torch.allclose(given, model.denoise(x, 50.0, cond.absent()), atol=1e-3)
        assert torch.equal(model.denoise(x, 50.0, cond.absent()), model.denoise(x, 50.0))


def test_classes_are_told_beside_it_and_each_is_hidden_alone() -> None:
    model = built(conditioner=LowResolution(factor=2, classes=3))
    table = ClassLabel(classes=3).build(UNET.channels * 4).table.weight
    labels = torch.tensor([2, 0, 1, 1])
    both = model.conditioner(Conditions.of(label=labels, low_res=small()), 4)
    assert torch.equal(both.vector, table[labels])
    assert both.image is not None
    assert bool(both.image[:, 3].all())
    image_alone = model.conditioner(Conditions.of(low_res=small()), 4)
    assert torch.equal(image_alone.vector, table[3].expand(4, -1))
    assert torch.equal(image_alone.image, both.image)
    assert model.conditioner.reads == ("low_res", "label")
    with pytest.raises(UsageError, match="labels run from 0 to 3, but the model knows 0 to 2"):
        model.conditioner.check(Conditions.of(label=torch.arange(4)))


# In training


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_the_objective_observes_the_images_and_hides_them_with_the_other_conditions(rate: float) -> None:
    model, seen = built(conditioner=LowResolution(factor=2, classes=3)), []
    model.conditioner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    batch = Batch(x0=pictures(32), cond=Conditions.of(label=torch.arange(32) % 3))
    draws = Draws(0, torch.arange(32), total=32)
    losses = Denoising(condition_dropout=rate).build(model)(model, batch, Progress(0, 1), draws)["denoising"]
    (cond,) = seen
    assert torch.equal(cond.values["low_res"], downsampled(batch.x0, 2))
    assert torch.equal(cond.present["low_res"], cond.present["label"])
    assert torch.equal(cond.present["label"], draws.uniform("condition dropout") >= rate)
    part = Denoising(condition_dropout=rate).build(model)(model, batch[8:16], Progress(0, 1), draws[8:16])["denoising"]
    torch.testing.assert_close(part, losses[8:16], rtol=1e-5, atol=1e-6)


# The model as a whole


def test_the_networks_channels_are_filled_in_and_written_down(tmp_path: Path) -> None:
    made = config(time=SharedTimesteps(below=10))
    assert made.network == UNET.replace(extra_channels=4)
    assert config(network=UNET.replace(extra_channels=4)) == config(), "writing them too is no mistake"
    plain = json.loads(json.dumps(made.dump()))
    assert parse(LowResolution, plain["conditioner"]) == LowResolution(factor=2)
    assert parse(ModelConfig, plain) == made
    model = made.build(seed=5).eval()
    save_model(tmp_path, made, model.state_dict(), {})
    again, cond = load_model(tmp_path), Conditions.of(low_res=small())
    assert again.config == made
    assert torch.equal(again.denoise(pictures(), 50.0, cond), model.denoise(pictures(), 50.0, cond))
    assert not any(name.startswith("conditioner") for name in model.state_dict()), "no weights without classes"


def test_a_model_without_it_is_built_as_before() -> None:
    for conditioner in (NoCondition(), ClassLabel(classes=3)):
        made = config(conditioner=conditioner)
        assert made.network == UNET
        assert made.build().network.stem.weight.shape[1] == 3


def test_sampling_takes_images_and_each_sample_is_its_own() -> None:
    model, cond = built(), Conditions.of(low_res=small(6))
    how = {"solver": DDIM(), "grid": Uniform(steps=4), "seed": 3}
    whole = sample(model, 6, cond=cond, **how).x
    # Matrix products of other sizes may round.
    torch.testing.assert_close(sample(model, 6, cond=cond, batch=4, **how).x, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(sample(model, 1, cond=cond[4:5], first=4, **how).x, whole[4:5], rtol=0, atol=1e-5)
    assert not torch.allclose(sample(model, 6, cond=Conditions.of(low_res=small(6).flip(0)), **how).x, whole, atol=1e-3)


def test_guidance_leans_away_from_the_model_without_the_image() -> None:
    model, cond = built(), Conditions.of(low_res=small())
    how = {"solver": DDIM(), "grid": Uniform(steps=1), "cond": cond}
    given, absent = sample(model, 4, **how).x, sample(model, 4, **{**how, "cond": cond.absent()}).x
    for together in (True, False):
        guided = sample(model, 4, guidance=CFG(scale=2.5, together=together), **how)
        # One step to clean data gives the estimate itself, which guidance mixes linearly.
        torch.testing.assert_close(guided.x, absent + 2.5 * (given - absent), rtol=1e-4, atol=1e-4)
        assert guided.nfe == 2
    assert torch.equal(sample(model, 4, guidance=CFG(scale=1), **how).x, given)


# Refusals


@pytest.mark.parametrize("low_res", [torch.zeros(4, 3, 8, 8), torch.zeros(4, 1, 4, 4), torch.zeros(4, 3, 4, 4).byte()])
def test_images_of_another_size_or_type_are_named_with_what_is_wanted(low_res: Tensor) -> None:
    model, cond = built(), Conditions.of(low_res=low_res)
    told = (
        r"low_res has shape .*, but this model enlarges \(3, 4, 4\) by 2 .* give floats in \[-1, 1\] of shape \(B, 3, "
    )
    with pytest.raises(UsageError, match=told):
        sample(model, 4, cond=cond)
    with pytest.raises(UsageError, match=told):
        model.denoise(pictures(), 50.0, cond)


def test_sides_that_do_not_divide_are_told_before_building() -> None:
    with pytest.raises(UsageError, match=r"the image is 8 x 8, which conditioner.factor 3 does not divide; resize"):
        config(conditioner=LowResolution(factor=3))
    with pytest.raises(UsageError, match=r"8 x 8, which conditioner.factor 16 does not divide"):
        LowResolution(factor=16).build(0, SHAPE)
    with pytest.raises(UsageError, match=r"8 x 6, which conditioner.factor 4 does not divide"):
        downsampled(pictures(2, (3, 8, 6)), 4)
    with pytest.raises(UsageError, match="factor"):
        parse(LowResolution, {"factor": 1})


def test_points_and_unfitting_networks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'low_resolution' needs images \(C, H, W\), but samples have shape \(2,\)"):
        config(network=MLP(width=8, depth=1), shape=(2,))
    with pytest.raises(UsageError, match=r"network.extra_channels is 3, but conditioner 'low_resolution' puts 4 chan"):
        config(network=UNET.replace(extra_channels=3))
    with pytest.raises(UsageError, match=r"extra_channels is 3, but conditioner 'none' puts 0 .* leave extra_channels"):
        config(network=UNET.replace(extra_channels=3), conditioner=NoCondition())
    assert config(prediction=Eps()).build().network.in_channels == 7


# Noise on the image, of which the network is told


def noisy(**changes: object) -> Augmentation:
    return Augmentation(**{"up_to": 0.5, **changes})  # type: ignore[arg-type]


def augmented(**changes: object) -> Denoiser:
    model = built(conditioner=LowResolution(factor=2, augmentation=noisy(**changes)))
    with torch.no_grad():
        model.conditioner.told[-1].weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return model


def test_without_noise_it_is_bit_for_bit_what_it_is_without_augmentation() -> None:
    plain, other = built(), built(conditioner=LowResolution(factor=2, augmentation=noisy()))
    ours = other.state_dict()
    assert {name for name in ours if name not in plain.state_dict()} == {
        f"conditioner.told.{place}.{kind}" for place in (1, 3) for kind in ("weight", "bias")
    }
    for name, value in plain.state_dict().items():
        assert torch.equal(ours[name], value), name
    cond = Conditions.of(low_res=small())
    assert torch.equal(other.denoise(pictures(), 50.0, cond), plain.denoise(pictures(), 50.0, cond))
    assert torch.equal(other.denoise(pictures(), 50.0), plain.denoise(pictures(), 50.0))
    zero = cond.plus(low_res_noise=torch.zeros(4))
    assert torch.equal(image_of(other.conditioner, zero, 4), image_of(plain.conditioner, cond, 4))


def test_in_training_each_samples_image_has_noise_of_its_key_and_the_network_is_told() -> None:
    model = augmented().train()
    cond, seeds = Conditions.of(low_res=small(32)), keys(0, "k", 0, torch.arange(32))
    told = model.conditioner(cond, 32, seeds)
    part = model.conditioner(cond[4:8], 4, seeds[4:8])
    torch.testing.assert_close(part.image, told.image[4:8])
    torch.testing.assert_close(part.vector, told.vector[4:8])
    _, share = noisy().of(small(32), seeds)
    assert 0 < share.min() < 0.1
    assert 0.4 < share.max() < 0.5
    torch.testing.assert_close(told.vector, model.conditioner.told(1000 * share.float()))
    clean = image_of(model.conditioner, cond, 32)
    error = (told.image - clean)[:, :3].square().mean((1, 2, 3))
    order = share.argsort()
    assert error[order[:8]].mean() < 0.3 * error[order[-8:]].mean(), "more noise where it is said that there is more"
    hidden = model.conditioner(cond.absent(), 32, seeds)
    assert not hidden.image.any()
    assert not hidden.vector.any()


def test_in_sampling_a_chosen_amount_is_applied_and_told() -> None:
    model, cond = augmented(amount=0.25), Conditions.of(low_res=small())
    clean = image_of(built().conditioner, cond, 4)
    by_field, by_value = (
        model.conditioner(cond, 4),
        augmented().conditioner(cond.plus(low_res_noise=torch.full((4,), 0.25)), 4),
    )
    assert torch.equal(by_field.image, by_value.image)
    assert torch.equal(by_field.vector, by_value.vector)
    torch.testing.assert_close(by_field.vector, model.conditioner.told(torch.full((4,), 250.0)))
    low = small()
    level = noisy().path.level(noisy().path.t_min + 0.25 * (noisy().path.t_max - noisy().path.t_min))
    noise = (by_field.image - clean)[:, :3]
    assert noise.abs().mean() > 0.1
    # The same at each step of a sample, another for another key.
    some = keys(0, "k", 0, torch.arange(4))
    keyed = [image_of(model.conditioner, cond.plus(low_res_key=some)[rows], 2) for rows in (slice(0, 2), slice(1, 3))]
    assert torch.equal(keyed[0][1], keyed[1][0])
    deviations = (keyed[0][0] - keyed[0][1])[:3].std()
    assert deviations > 0
    expected = float(level.alpha) * low + float(level.sigma) * normal(derived(some, "low resolution"), (3, 4, 4))
    enlarged = torch.nn.functional.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(image_of(model.conditioner, cond.plus(low_res_key=some), 4)[:, :3], enlarged)


def test_noise_that_was_not_trained_is_refused() -> None:
    model = augmented()
    with pytest.raises(UsageError, match=r"low_res_noise is .*give a number in \[0, 0.5\]"):
        sample(model, 4, cond=Conditions.of(low_res=small(), low_res_noise=torch.full((4,), 0.7)))
    with pytest.raises(UsageError, match=r"amount 0.7 is more noise than training knows \(up_to = 0.5\)"):
        parse(LowResolution, {"factor": 2, "augmentation": {"amount": 0.7}})
    with pytest.raises(UsageError, match="needs a network that takes a condition vector"):
        LowResolution(factor=2, augmentation=noisy()).build(0, SHAPE)
    with pytest.raises(UsageError, match="classes = 3 and reader 'class_label' both say"):
        parse(LowResolution, {"classes": 3, "reader": {"kind": "class_label", "classes": 3}})


# In latents


def test_in_latents_the_small_image_may_be_that_of_the_picture_behind() -> None:
    part = LowResolution(factor=4, of="image").seeing((3, 16, 16))
    live = part.build(0, (4, 4, 4))
    x = pictures(2, (3, 16, 16))
    seen = live.observe(torch.zeros(2, 4, 4, 4), Conditions.of(image=x))
    assert torch.equal(seen.values["low_res"], downsampled(x, 4))
    image = image_of(live, seen, 2)
    assert image.shape == (2, 4, 4, 4)
    assert torch.equal(image[:, :3], downsampled(x, 4)), "it is of the latents' size already"
    assert part.sees_images
    with pytest.raises(UsageError, match=r"low_res is 8 x 8, but the latents .* are 4 x 4.*raise conditioner.factor"):
        LowResolution(factor=2, of="image").seeing((3, 16, 16)).build(0, (4, 4, 4))
    with pytest.raises(UsageError, match="told no image with the latents"):
        live.observe(torch.zeros(2, 4, 4, 4), Conditions())


def test_the_amount_of_noise_is_told_in_the_weights_own_type() -> None:
    part = LowResolution(factor=2, augmentation={"noise": 1.0})
    live = part.build(16, (1, 8, 8)).to(torch.bfloat16).eval()
    cond = Conditions.of(low_res=torch.zeros(2, 1, 4, 4, dtype=torch.bfloat16))
    assert live(cond, 2).vector.dtype == torch.bfloat16
