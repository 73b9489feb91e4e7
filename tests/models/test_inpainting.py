"""Inpainting by concatenation: masks by keys, what the network sees of a picture, and how a fresh network starts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from suffuse.base.batch import Batch
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.randomness import Draws, keys
from suffuse.models.conditioner import ClassLabel, NoCondition
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.inpainting import Inpainting
from suffuse.models.masks import RandomMasks
from suffuse.networks import MLP, UNet
from suffuse.objectives import Denoising, Progress
from suffuse.process import VP, V
from suffuse.sampling import CFG, DDIM, Uniform, sample

SHAPE = (3, 8, 8)
UNET = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), groups=4, zero_init=False)


def built(**changes: object) -> Denoiser:
    fields = {"network": UNET, "shape": SHAPE, "path": VP(steps=100), "prediction": V(), "conditioner": Inpainting()}
    return ModelConfig(**{**fields, **changes}).build().eval()  # type: ignore[arg-type]


def pictures(n: int = 4) -> Tensor:
    return Draws(0, torch.arange(n)).normal("pictures", SHAPE).clamp(-1, 1)


def image_of(conditioner: torch.nn.Module, cond: Conditions, n: int = 4) -> Tensor:
    image = conditioner(cond, n).image
    assert isinstance(image, Tensor)
    return image


# Masks


@pytest.mark.parametrize("strokes", [0.0, 1.0])
def test_a_hole_has_the_share_that_is_asked_for_and_is_its_keys(strokes: float) -> None:
    masks, some = RandomMasks(share=(0.25, 0.25), strokes=strokes), keys(0, "k", 0, torch.arange(16))
    drawn = masks.draw(some, 12, 8)
    assert drawn.shape == (16, 1, 12, 8)
    assert torch.equal((drawn == 0).sum((1, 2, 3)), torch.full((16,), 24))
    assert bool(((drawn == 0) | (drawn == 1)).all())
    assert torch.equal(masks.draw(some[3:5], 12, 8), drawn[3:5])
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) > 12
    shares = 1 - RandomMasks(share=(0.1, 0.6), strokes=strokes).draw(keys(1, "k", 0, torch.arange(64)), 20, 20).mean(
        (1, 2, 3)
    )
    assert 0.1 <= shares.min() < 0.2
    assert 0.5 < shares.max() <= 0.6


def test_a_rectangle_is_one_and_a_stroke_is_none() -> None:
    def filled(strokes: float) -> Tensor:
        """Share of its bounding box that a hole fills."""
        holes = (
            RandomMasks(share=(0.15, 0.15), strokes=strokes).draw(keys(0, "k", 0, torch.arange(32)), 32, 32)[:, 0] == 0
        )
        boxes = holes.any(1).sum(1) * holes.any(2).sum(1)
        return (holes.sum((1, 2)) / boxes).mean()

    assert filled(0.0) > 0.9
    assert filled(1.0) < 0.6


def test_shares_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match=r"share \(0.6, 0.1\) must be two numbers in \[0, 1\]"):
        parse(RandomMasks, {"share": [0.6, 0.1]})


# What the network sees


def test_it_sees_the_mask_and_what_it_leaves_whatever_is_hidden() -> None:
    live, x = Inpainting().build(0, SHAPE), pictures()
    mask = RandomMasks().draw(keys(0, "k", 0, torch.arange(4)), 8, 8)
    image = image_of(live, Conditions.of(known=x, mask=mask))
    assert torch.equal(image[:, :1], mask)
    assert torch.equal(image[:, 1:], x * mask)
    hidden = x.where(mask > 0, torch.full_like(x, torch.nan))
    assert torch.equal(image_of(live, Conditions.of(known=hidden, mask=mask)), image)


def test_absence_is_nothing_known() -> None:
    live, x = Inpainting().build(0, SHAPE), pictures()
    cond = Conditions.of(known=x, mask=torch.ones(4, 1, 8, 8))
    for nothing in (Conditions(), cond.absent(), Conditions.of(known=x, mask=torch.zeros(4, 1, 8, 8))):
        assert torch.equal(image_of(live, nothing), torch.zeros(4, 4, 8, 8))


def test_a_larger_mask_comes_to_the_grid_by_its_nearest_pixels() -> None:
    live, x = Inpainting().build(0, SHAPE), pictures()
    mask = RandomMasks().draw(keys(0, "k", 0, torch.arange(4)), 8, 8)
    large = mask.repeat_interleave(4, 2).repeat_interleave(4, 3)
    small, big = (image_of(live, Conditions.of(known=x, mask=one)) for one in (mask, large))
    assert torch.equal(small, big)


def test_training_masks_the_data_by_their_keys_and_hides_all_together() -> None:
    part = Inpainting(reader=ClassLabel(classes=3))
    model, seen = built(conditioner=part), []
    model.conditioner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    batch = Batch(x0=pictures(16), cond=Conditions.of(label=torch.arange(16) % 3))
    draws = Draws(0, torch.arange(16), total=16)
    objective = Denoising(condition_dropout=0.5).build(model)
    losses = objective(model, batch, Progress(0, 1), draws)["denoising"]
    assert torch.equal(seen[0].values["known"], batch.x0)
    assert torch.equal(seen[0].values["mask"], part.masks.draw(draws.keys("observed"), 8, 8))
    assert torch.equal(seen[0].present["mask"], seen[0].present["label"])
    some = objective(model, batch[4:8], Progress(0, 1), draws[4:8])["denoising"]
    torch.testing.assert_close(some, losses[4:8], rtol=1e-5, atol=1e-6)
    given = Conditions.of(known=pictures(), mask=torch.ones(4, 1, 8, 8))
    assert model.conditioner.observe(pictures(), given) is given


def test_labels_are_read_beside_it() -> None:
    model = built(conditioner=Inpainting(reader=ClassLabel(classes=3)))
    table = ClassLabel(classes=3).build(UNET.channels * 4).table.weight
    told = model.conditioner(Conditions.of(label=torch.tensor([2, 0])), 2)
    assert torch.equal(told.vector, table[[2, 0]])
    assert model.conditioner.reads == ("known", "mask", "label")
    with pytest.raises(UsageError, match="labels run from 0 to 3"):
        model.conditioner.check(Conditions.of(label=torch.arange(4)))


# The model


def test_with_zero_extra_a_fresh_network_is_the_one_without_conditions() -> None:
    """Invariant 8 of latent diffusion: extra input channels whose weights are zero change nothing."""
    model, plain = built(network=UNET.replace(zero_extra=True)), built(conditioner=NoCondition())
    x, cond = pictures(), Conditions.of(known=pictures().flip(0), mask=torch.ones(4, 1, 8, 8))
    assert plain.denoise(x, 50.0).std() > 0
    torch.testing.assert_close(model.denoise(x, 50.0, cond), plain.denoise(x, 50.0), rtol=1e-6, atol=1e-6)
    same = {name: value for name, value in plain.network.state_dict().items() if name != "stem.weight"}
    for name, value in same.items():
        assert torch.equal(model.network.state_dict()[name], value), name
    model.denoise(x, 50.0, cond).square().sum().backward()
    assert model.network.stem.weight.grad[:, 3:].abs().max() > 0, "they learn"
    assert not torch.allclose(built().denoise(x, 50.0, cond), plain.denoise(x, 50.0), atol=1e-3), "not by itself"


def test_sampling_takes_masks_with_guidance_and_each_sample_is_its_own() -> None:
    model = built()
    cond = Conditions.of(known=pictures(), mask=RandomMasks().draw(keys(0, "k", 0, torch.arange(4)), 8, 8))
    how = {"solver": DDIM(), "grid": Uniform(steps=3), "seed": 3}
    whole = sample(model, 4, cond=cond, **how).x
    alone = sample(model, 1, cond=cond[2:3], first=2, **how).x
    torch.testing.assert_close(alone, whole[2:3], rtol=0, atol=1e-5)
    guided = sample(model, 4, cond=cond, guidance=CFG(scale=2.0), **how)
    assert guided.nfe == 6
    assert not torch.allclose(guided.x, whole, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"known": torch.zeros(2, 3, 8, 8)}, "known came alone; give both"),
        ({"known": torch.zeros(2, 3, 8, 4), "mask": torch.zeros(2, 1, 8, 8)}, r"known has shape \(2, 3, 8, 4\)"),
        ({"known": torch.zeros(2, 3, 8, 8), "mask": torch.zeros(2, 1, 12, 8)}, r"mask has shape .* \(B, 1, 8, 8\)"),
        ({"known": torch.zeros(2, 3, 8, 8), "mask": torch.full((2, 1, 8, 8), 0.5)}, "numbers beside 0 and 1"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, Tensor], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        sample(built(), 2, cond=Conditions.of(**values))


def test_points_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'inpainting' needs images \(C, H, W\), but samples have shape \(2,\)"):
        built(network=MLP(width=8, depth=1), shape=(2,))
