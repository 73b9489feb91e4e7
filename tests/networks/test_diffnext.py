"""What is DiffNeXt's own: its start, its head, the map at chosen levels, skips, what caches find in it, sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from suffuse.acceleration import DeepCache, EncoderReuse, applied
from suffuse.acceleration.deepcache import decoder_blocks
from suffuse.base.conditions import Conditions, Embedding
from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.randomness import keys
from suffuse.models.conditioner import ClassLabel
from suffuse.models.config import ModelConfig
from suffuse.networks import DiffNeXt, Network, count_parameters
from suffuse.networks.blocks.convnext import bounded_spread
from suffuse.networks.blocks.dropout import Dropout
from suffuse.process import VP, Eps
from suffuse.sampling import DDIM, Uniform, sample

SMALL = DiffNeXt(
    widths=(8, 12, 16),
    blocks=(1, 2, 1),
    layout=("CT", "CTA", "CTAC"),
    heads=(0, 2, 4),
    inject=(False, True, True),
    patch=2,
    context_width=10,
    frequencies=8,
    token_width=6,
    map_channels=5,
    dropout=0.0,
)
SHAPE = (3, 16, 24)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def live(part: DiffNeXt = SMALL) -> Network:
    """A network of which no weight is zero."""
    network = part.build(SHAPE)
    for place, parameter in enumerate(network.parameters()):
        parameter.data = 0.15 * normal(*parameter.shape, seed=place)
    return network


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Embedding]:
    cond = Embedding(tokens=normal(batch, 4, 6), map=normal(batch, 5, 3, 2))
    return normal(batch, *SHAPE, seed=1), torch.linspace(0.0, 1000.0, batch), cond


def test_before_training_it_gives_twice_the_sample() -> None:
    x, told, cond = inputs()
    torch.testing.assert_close(SMALL.build(SHAPE)(x, told, cond).value, 2 * x, rtol=0, atol=1e-6)


def test_the_head_divides_by_what_is_never_zero_nor_one() -> None:
    b = torch.tensor([-100.0, 0.0, 100.0])
    torch.testing.assert_close(bounded_spread(b), torch.tensor([1e-3, 0.5, 0.999]))
    network, (x, told, cond) = live(), inputs()
    plain = SMALL.replace(head="plain").build(SHAPE).output
    halves = []
    with torch.no_grad():
        h = network(x, told, cond, taps=("up.2.0",)).features["up.2.0"]
        # A's rows are the first half, and B's the second.
        for place in range(2):
            plain.conv.weight.copy_(network.output.conv.weight.chunk(2)[place])
            plain.conv.bias.copy_(network.output.conv.bias.chunk(2)[place])
            halves.append(plain(h, x))
        torch.testing.assert_close(network.output(h, x), (x - halves[0]) / bounded_spread(halves[1]))


def test_autocast_does_not_reach_the_head_and_keeps_the_sum_in_float32() -> None:
    network, (x, told, cond) = live(), inputs()
    taps = tuple(network.graph)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = network(x, told, cond, taps=taps)
    assert {feature.dtype for feature in out.features.values()} == {torch.float32}
    assert torch.equal(out.value, network.output(out.features["up.2.0"], x))


def test_half_precision_weights_take_text_and_maps() -> None:
    network, (x, told, cond) = live().to(torch.bfloat16), inputs()
    value = network(x.bfloat16(), told, cond).value
    assert value.dtype == torch.bfloat16
    assert value.isfinite().all()


def test_the_map_is_read_where_it_is_injected_at_any_size() -> None:
    network, (x, told, cond) = live(), inputs()
    assert set(network.maps.convs) == {"down_1", "down_2", "up_0", "up_1"}
    taps = ("down.0.sample", "down.1.0")
    with torch.no_grad():
        first = network(x, told, cond, taps=taps)
        second = network(x, told, Embedding(tokens=cond.tokens, map=normal(3, 5, 6, 9)), taps=taps)
        assert torch.equal(first.features["down.0.sample"], second.features["down.0.sample"])
        assert not torch.allclose(first.features["down.1.0"], second.features["down.1.0"], atol=1e-3)
        flat = [
            network(x, told, Embedding(tokens=cond.tokens, map=torch.ones(3, 5, *size))).value
            for size in ((1, 1), (3, 2), (16, 24))
        ]
    for value in flat[1:]:
        torch.testing.assert_close(value, flat[0], rtol=1e-4, atol=1e-4)


def test_the_map_is_laid_out_as_the_image_is() -> None:
    network, (x, told, cond) = live(), inputs()
    half = torch.zeros(3, 5, 4, 6)
    changed = half.clone()
    changed[:, :, :, 3:] = 1.0
    with torch.no_grad():
        values = [
            network(x, told, Embedding(tokens=cond.tokens, map=map), taps=("down.1.0",)).features["down.1.0"]
            for map in (half, changed)
        ]
    # Where the map moved is where the level moved most: attention alone carries it to the left.
    moved = (values[1] - values[0]).abs().mean(dim=(0, 1, 2))
    assert moved[-2:].min() > moved[:2].max()


def test_masked_tokens_do_not_count() -> None:
    network, (x, told, cond) = live(), inputs()
    assert cond.tokens is not None
    mask = torch.tensor([[True, True, False, False]]).expand(3, -1)
    with torch.no_grad():
        masked = network(x, told, Embedding(tokens=cond.tokens, tokens_mask=mask, map=cond.map)).value
        short = network(x, told, Embedding(tokens=cond.tokens[:, :2], map=cond.map)).value
        whole = network(x, told, cond).value
    # Kernels sum in another order when there is a mask.
    torch.testing.assert_close(masked, short, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, short, atol=1e-3)


def test_caches_find_the_decoder_and_run_what_they_should() -> None:
    network, (x, told, cond) = live(), inputs()
    assert decoder_blocks(network) == ("up.1.0", "up.2.0")
    assert network.graph["up.1.0"] == ("up.0.sample", "down.1.1")
    assert network.graph["up.2.0"] == ("up.1.sample", "down.0.0")
    assert network.needed(["up.1.sample"]) == ("stem", "down.0.0", "up.2.0", "output")
    with torch.no_grad():
        plain = network(x, told, cond, taps=tuple(network.graph))
        assert torch.equal(plain.value, network(x, told, cond).value)
        for name, feature in plain.features.items():
            assert torch.equal(network(x, told, cond, given={name: feature}).value, plain.value), name


@pytest.mark.parametrize("plan", [DeepCache(every=3), DeepCache(every=3, branch=1), EncoderReuse(every=3)])
def test_plans_work_on_models_of_it(plan: DeepCache | EncoderReuse) -> None:
    part = SMALL.replace(token_width=0, map_channels=0)
    config = ModelConfig(network=part, shape=SHAPE, path=VP(), prediction=Eps(), conditioner=ClassLabel(classes=3))
    model = config.build(seed=0)
    model.network.load_state_dict(live(part).state_dict())
    cond = Conditions.of(label=torch.tensor([0, 2]))

    def made() -> Tensor:
        return sample(model, 2, shape=SHAPE, cond=cond, solver=DDIM(), grid=Uniform(steps=6), seed=1).x

    plain = made()
    with applied(model, plan.replace(every=1)):
        assert torch.equal(made(), plain)
    with applied(model, plan) as run:
        reused = made()
    assert not torch.equal(reused, plain)
    assert run.timeline().total < 0.9


def test_dropout_and_checkpointing_with_text_and_map() -> None:
    (x, told, cond), seeds = inputs(), keys(0, "dropout", 0, torch.arange(3))
    assert cond.tokens is not None
    assert cond.map is not None
    gradients = []
    for checkpointing in (False, True):
        network = live(SMALL.replace(dropout=(0.0, 0.2, 0.3), checkpointing=checkpointing))
        whole = network(x, told, cond, seeds=seeds).value
        whole.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0, name
        assert torch.equal(gradient, gradients[1][name]), name
    with torch.no_grad():
        one = Embedding(tokens=cond.tokens[1:2], map=cond.map[1:2])
        alone = network(x[1:2], told[1:2], one, seeds=seeds[1:2]).value
    # Masks are bit-equal; kernels sum in another order in another batch.
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-4, atol=1e-4)


def test_dropout_goes_by_level_and_no_two_layers_share_it() -> None:
    network = SMALL.replace(dropout=(0.0, 0.2, 0.3)).build(SHAPE)
    found = {name: module for name, module in network.named_modules() if isinstance(module, Dropout)}
    assert {name[:6]: module.p for name, module in found.items()} == {
        **{"down.0": 0.0, "down.1": 0.2, "down.2": 0.3},
        **{"up.0.0": 0.3, "up.1.0": 0.2, "up.1.1": 0.2, "up.2.0": 0.0},
    }
    salts = [module.salt for module in found.values()]
    assert len(salts) == len(set(salts))


def test_weights_serve_other_sizes() -> None:
    network, (_, told, cond) = live(), inputs()
    assert network(normal(3, 3, 8, 40), told, cond).value.shape == (3, 3, 8, 40)


def test_sizes() -> None:
    # Counted with diffusers' class for the released configuration.
    assert count_parameters(DiffNeXt(token_width=1024, map_channels=16), (4, 256, 256)) == 1_055_365_280
    small = DiffNeXt(
        widths=(48, 96),
        blocks=(2, 2),
        layout=("CT", "CTA"),
        heads=(0, 4),
        inject=(False, True),
        patch=1,
        context_width=64,
        frequencies=32,
        token_width=64,
        map_channels=8,
    )
    assert count_parameters(small, (4, 16, 16)) == 744_328


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": (0, 10, 20, 24)}, r"heads\[3\] = 24 does not divide widths\[3\] = 1280; take a divisor"),
        ({"heads": (0, 0, 20, 20)}, r"heads\[1\] = 0 does not divide"),
        ({"heads": (4, 10, 20, 20)}, r"heads\[0\] = 4, but layout\[0\] = 'CT' has no A; write 0"),
        ({"layout": ("TC", "CTA", "CTA", "CTA")}, r"layout\[0\] = 'TC'; begin with C"),
        ({"layout": ("CX", "CTA", "CTA", "CTA")}, r"layout\[0\] = 'CX'; .* letters C, T and A only"),
        ({"blocks": (1, 2)}, "blocks has 2 values, but widths has 4 levels; give one a level"),
        ({"dropout": (0.1, 0.2)}, "dropout has 2 values, but widths has 4 levels"),
        ({"kernel": 4}, "kernel = 4 is even"),
        ({"map_channels": 4, "inject": (False,) * 4}, "map_channels = 4, but no level reads the map"),
        ({"width": (8,)}, "did you mean 'widths'"),
    ],
)
def test_wrong_fields_are_explained(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(DiffNeXt, fields)


def test_wrong_inputs_are_explained() -> None:
    network, (x, told, cond) = SMALL.build(SHAPE), inputs()
    with pytest.raises(UsageError, match=r"takes cond\.map \(map_channels = 5\), but the condition has none; use a"):
        network(x, told, Embedding(tokens=cond.tokens))
    with pytest.raises(UsageError, match=r"takes cond\.tokens \(token_width = 6\), but the condition has none"):
        network(x, told, Embedding(map=cond.map))
    with pytest.raises(UsageError, match=r"cond\.map has shape \(3, 4, 3, 2\), but the network takes map_channels = 5"):
        network(x, told, Embedding(tokens=cond.tokens, map=normal(3, 4, 3, 2)))
    with pytest.raises(UsageError, match=r"14 x 24, a DiffNeXt of 3 levels on patches of side 2 needs .* by 8"):
        network(x[:, :, :14], told, cond)
    with pytest.raises(UsageError, match="divisible by 8"):
        SMALL.build((3, 12, 16))
    with pytest.raises(UsageError, match="use the network mlp"):
        SMALL.build((2,))
    with pytest.raises(UsageError, match=r"set network\.head=plain"):
        SMALL.build(SHAPE, out_channels=6)
