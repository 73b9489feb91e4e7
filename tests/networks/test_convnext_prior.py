"""What is the prior's own: its start, its head, text in attention, time, what caches find in it, sizes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from suffuse.acceleration import ResidualReuse, Taylor, applied
from suffuse.acceleration.caches.residual import residual_blocks
from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.randomness import keys
from suffuse.models.config import ModelConfig
from suffuse.networks import ConvNeXtPrior, Network, count_parameters
from suffuse.networks.blocks.convnext import (
    ABHead,
    GlobalResponseNorm,
    Stage,
    TextAttention,
    TimeWaves,
    absolute_spread,
)
from suffuse.networks.part import seeded
from suffuse.process import VP, Eps
from suffuse.sampling import DDIM, Uniform, sample

SMALL = ConvNeXtPrior(width=16, depth=2, heads=2, frequencies=8, token_width=6, dropout=0.0)
SHAPE = (3, 5, 7)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def live(part: ConvNeXtPrior = SMALL) -> Network:
    """A prior of which no weight is zero."""
    network = part.build(SHAPE)
    for place, parameter in enumerate(network.parameters()):
        parameter.data = 0.15 * normal(*parameter.shape, seed=place)
    return network


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Embedding]:
    return normal(batch, *SHAPE, seed=1), torch.linspace(0.0, 1000.0, batch), Embedding(tokens=normal(batch, 4, 6))


def test_before_training_it_takes_the_sample_for_noise() -> None:
    x, told, cond = inputs()
    torch.testing.assert_close(SMALL.build(SHAPE)(x, told, cond).value, x / (1 + 1e-5), rtol=0, atol=1e-6)


def test_the_head_is_x_minus_a_over_a_distance_of_b() -> None:
    with seeded(0):
        head = ABHead(4, 3, patch=1, spread=absolute_spread)
        plain = ABHead(4, 6, patch=1, spread=None)
    for parameter, twin in zip(head.parameters(), plain.parameters(), strict=True):
        parameter.data = twin.data = normal(*parameter.shape)
    h, x = normal(2, 4, 5, 5), normal(2, 4, 5, 5, seed=1)  # one channel more than the data's
    a, b = plain(h, x).chunk(2, dim=1)
    torch.testing.assert_close(head(h, x), (x[:, :3] - a) / ((1 - b).abs() + 1e-5))


def test_autocast_does_not_reach_the_head() -> None:
    network, (x, _, _) = live(), inputs()
    h = normal(3, 16, 5, 7)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inside = network.output(h, x)
    assert torch.equal(inside, network.output(h, x))


def test_autocast_keeps_the_sum_over_stages_in_float32() -> None:
    network, (x, told, cond) = live(), inputs()
    names = ("stem", "blocks.0", "blocks.1", "output")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = network(x, told, cond, taps=names).features
    assert {feature.dtype for feature in features.values()} == {torch.float32}


def test_text_changes_the_output_and_masked_tokens_do_not() -> None:
    network, (x, told, cond) = live(), inputs()
    tokens = cond.tokens
    assert tokens is not None
    with torch.no_grad():
        short = network(x, told, Embedding(tokens=tokens[:, :2])).value
        mask = torch.tensor([[True, True, False, False]]).expand(3, -1)
        masked = network(x, told, Embedding(tokens=tokens, tokens_mask=mask)).value
        assert not torch.allclose(network(x, told, cond).value, short, atol=1e-3)
        # Kernels sum in another order when there is a mask.
        torch.testing.assert_close(masked, short, rtol=1e-4, atol=1e-4)
        moved = tokens + torch.tensor([0.0, 0.0, 9.0, 9.0])[:, None]
        assert torch.equal(network(x, told, Embedding(tokens=moved, tokens_mask=mask)).value, masked)
        rows = torch.tensor([[True, True, False, False], [True] * 4, [True, False, False, False]])
        mixed = network(x, told, Embedding(tokens=tokens, tokens_mask=rows)).value
        torch.testing.assert_close(mixed[:1], short[:1], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(mixed[2], short[2], atol=1e-3)


def test_attention_is_one_softmax_over_pixels_and_text() -> None:
    with seeded(0):
        attend = TextAttention(4, 1)
    x, text = normal(1, 3, 4), normal(1, 2, 4, seed=1)
    query, (key, value) = attend.query(x), attend.keys_values(torch.cat([x, text], dim=1)).chunk(2, dim=2)
    expected = attend.out((query @ key.transpose(1, 2) / 2).softmax(dim=-1) @ value)
    torch.testing.assert_close(attend(x, text), expected)


def test_a_channel_of_mean_norm_passes_by_a_known_factor() -> None:
    norm = GlobalResponseNorm(2)
    x = normal(1, 3, 3, 1).expand(-1, -1, -1, 2) * torch.tensor([1.0, 3.0])
    assert torch.equal(norm(x), x)
    norm.gamma.data.fill_(1.0)
    # Norms stand 1 to 3, so they are 1/2 and 3/2 of their mean.
    torch.testing.assert_close(norm(x), x * torch.tensor([1.5, 2.5]))
    assert not norm(torch.zeros(1, 3, 3, 2, requires_grad=True)).any()


def test_a_stage_adds_its_layers_in_turn() -> None:
    x, waves = normal(2, 8, 3, 3), normal(2, 4, seed=1)
    with seeded(0):
        stage, *parts = (
            Stage(layout, 8, heads=2, frequencies=4, text_width=0, dropout=0.0, layer=itertools.count())
            for layout in ("CTA", "C", "T", "A")
        )
    y = x
    for part, layer in zip(parts, stage.layers, strict=True):
        part.layers[0].load_state_dict(layer.state_dict())
        y = y + part(y, waves)
    torch.testing.assert_close(x + stage(x, waves), y)


def test_time_is_told_as_ten_thousand_t() -> None:
    t = torch.tensor([0.0, 0.125, 0.37, 1.0])
    found = TimeWaves(64, 10.0)(1000 * t, None)
    angle = 10_000 * t.double()[:, None] * 10_000.0 ** -(torch.arange(32, dtype=torch.float64) / 31)
    # A float32 near 10000 radians is exact to a thousandth.
    torch.testing.assert_close(found, torch.cat([angle.sin(), angle.cos()], dim=1).float(), rtol=0, atol=3e-3)


def test_caches_find_what_stages_add_and_a_given_one_skips_the_stage() -> None:
    network, (x, told, cond) = live(), inputs()
    assert residual_blocks(network) == ("blocks.0", "blocks.1")
    given = {"blocks.1.residual": torch.ones(3, 16, 5, 7)}
    assert network.needed(given) == ("stem", "blocks.0.residual", "blocks.0", "blocks.1", "output")
    with torch.no_grad():
        plain = network(x, told, cond, taps=("blocks.0.residual",))
        assert torch.equal(plain.value, network(x, told, cond).value)
        again = network(x, told, cond, given=plain.features)
        assert torch.equal(again.value, plain.value)
        out = network(x, told, cond, taps=("blocks.0", "blocks.1"), given=given)
    assert torch.equal(out.features["blocks.1"], out.features["blocks.0"] + 1.0)


@pytest.mark.parametrize("plan", [ResidualReuse(every=2, first=0, last=1), Taylor(every=3, warm_up=1)])
def test_plans_work_on_models_of_it(plan: ResidualReuse) -> None:
    part = SMALL.replace(token_width=0)
    model = ModelConfig(network=part, shape=SHAPE, path=VP(), prediction=Eps()).build(seed=0)
    model.network.load_state_dict(live(part).state_dict())

    def made() -> Tensor:
        return sample(model, 2, shape=SHAPE, solver=DDIM(), grid=Uniform(steps=6), seed=1).x

    plain = made()
    with applied(model, plan.replace(every=1)):
        assert torch.equal(made(), plain)
    with applied(model, plan) as run:
        reused = made()
    assert not torch.equal(reused, plain)
    assert run.timeline().total < 0.9


def test_dropout_and_checkpointing_with_text() -> None:
    (x, told, cond), seeds = inputs(), keys(0, "dropout", 0, torch.arange(3))
    assert cond.tokens is not None
    gradients = []
    for checkpointing in (False, True):
        network = live(SMALL.replace(dropout=0.3, checkpointing=checkpointing))
        whole = network(x, told, cond, seeds=seeds).value
        whole.square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    with torch.no_grad():
        alone = network(x[1:2], told[1:2], Embedding(tokens=cond.tokens[1:2]), seeds=seeds[1:2]).value
    # Masks are bit-equal; kernels sum in another order in another batch.
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-4, atol=1e-4)


def test_sizes() -> None:
    # Counted with diffusers' class for the released configuration; the paper says 0.99 billion.
    assert count_parameters(ConvNeXtPrior(token_width=1280), (16, 24, 24)) == 993_636_896
    small = ConvNeXtPrior(width=96, depth=4, heads=4, frequencies=32, token_width=64)
    assert count_parameters(small, (8, 4, 4)) == 533_296


def test_stages_start_alike_and_the_output_at_zero() -> None:
    network = ConvNeXtPrior(width=64, depth=4, heads=4, token_width=8).build((4, 8, 8))
    x, told, cond = normal(2, 4, 8, 8), torch.tensor([1.0, 900.0]), Embedding(tokens=normal(2, 3, 8))
    with torch.no_grad():
        features = network(x, told, cond, taps=tuple(network.graph)).features
    assert float(features["stem"].std()) < 0.1
    deviations = [float(features[f"blocks.{stage}.residual"].std()) for stage in range(4)]
    assert max(deviations) < 3 * min(deviations)
    assert 0.1 < math.prod(deviations) ** 0.25 < 2
    assert not any(parameter.any() for parameter in network.output.parameters())
    # Xavier's bound, over the square root of the number of stages.
    bound = math.sqrt(6 / (64 + 256)) / math.sqrt(4)
    outer = network.blocks[0].layers[0].outer.weight
    assert 0.95 * bound < float(outer.detach().abs().max()) <= bound


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 10, "heads": 4}, "heads = 4 does not divide width = 10"),
        ({"frequencies": 5}, "frequencies"),
        ({"head": "eps"}, "head"),
        ({"deepth": 3}, "did you mean 'depth'"),
    ],
)
def test_wrong_fields_are_explained(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(ConvNeXtPrior, fields)


def test_wrong_conditions_are_explained() -> None:
    network, (x, told, _) = SMALL.build(SHAPE), inputs()
    with pytest.raises(UsageError, match=r"takes cond\.tokens \(token_width = 6\), but the condition has none; use a"):
        network(x, told)
    with pytest.raises(UsageError, match=r"cond\.tokens has shape \(3, 4, 5\), but the network takes token_width = 6"):
        network(x, told, Embedding(tokens=normal(3, 4, 5)))
    with pytest.raises(UsageError, match=r"tokens_mask has shape \(3, 3\), but there are \(3, 4\) tokens"):
        network(x, told, Embedding(tokens=normal(3, 4, 6), tokens_mask=torch.ones(3, 3, dtype=torch.bool)))
    with pytest.raises(UsageError, match=r"has cond\.map, which this network does not take; choose"):
        network(x, told, Embedding(tokens=normal(3, 4, 6), map=normal(3, 1, 2, 2)))
    with pytest.raises(UsageError, match=r"has cond\.tokens, which this network does not take; choose"):
        SMALL.replace(token_width=0).build(SHAPE)(x, told, Embedding(tokens=normal(3, 4, 6)))
    with pytest.raises(UsageError, match="head 'ab' gives an estimate of eps, of the data's 3 channels, but 6 are"):
        SMALL.build(SHAPE, out_channels=6)
    with pytest.raises(UsageError, match="use the network mlp"):
        SMALL.build((2,))


@pytest.mark.parametrize(("checkpointing", "numbers"), [(False, 1.245e9), (True, 2.97e7)])
def test_what_a_training_step_keeps_at_full_size_is_what_the_page_says(checkpointing: bool, numbers: float) -> None:
    """Numbers kept for the backward pass of one image, weights not among them; nothing is allocated."""
    kept: dict[int, torch.Tensor] = {}
    with torch.device("meta"):
        network = ConvNeXtPrior(token_width=1280, checkpointing=checkpointing).build((16, 24, 24)).train()
        weights = {id(parameter) for parameter in network.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            base = tensor if tensor._base is None else tensor._base
            if id(base) not in weights:
                kept[id(base)] = base
            return tensor

        x, text = torch.zeros(1, 16, 24, 24, requires_grad=True), Embedding(tokens=torch.zeros(1, 77, 1280))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(x, torch.zeros(1), text, seeds=torch.zeros(1, dtype=torch.int64))
    assert sum(base.numel() for base in kept.values()) == pytest.approx(numbers, rel=0.01)
