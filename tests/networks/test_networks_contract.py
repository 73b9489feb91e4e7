"""Properties that every network keeps: names, taps, given, seeds, checkpointing, precision, weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.base.randomness import keys
from suffuse.networks import MLP, ConvNeXtPrior, DiffNeXt, DiT, Network, NetworkPart, UNet, count_parameters
from suffuse.networks.blocks.dropout import Dropout

UNET = UNet(
    channels=16, multipliers=(1, 2), blocks=1, groups=8, attention_levels=(1,), zero_init=False, channels_last=False
)
ADM = UNET.replace(scale_shift=True, resample="resnet", head_channels=8, channels_last=True)
DIT = DiT(width=32, depth=3, heads=2)
POINTS = MLP(width=24, depth=3, zero_init=False)
DIFFNEXT = DiffNeXt(
    widths=(8, 16), blocks=(1, 2), layout=("CT", "CTA"), heads=(0, 2), inject=(False, True), frequencies=8, dropout=0.0
)
PRIOR = ConvNeXtPrior(width=16, depth=2, heads=2, frequencies=8, dropout=0.0, head="plain")
CASES = [
    pytest.param(UNET, (3, 8, 8), id="unet"),
    pytest.param(ADM, (3, 8, 8), id="adm"),
    pytest.param(DIT, (3, 8, 8), id="dit"),
    pytest.param(POINTS, (2,), id="mlp"),
    pytest.param(DIFFNEXT, (3, 8, 8), id="diffnext"),
    pytest.param(PRIOR, (3, 8, 8), id="convnext_prior"),
]
cases = pytest.mark.parametrize(("part", "shape"), CASES)


def live(part: NetworkPart, shape: tuple[int, ...]) -> Network:
    """A network of which no weight is zero."""
    network = part.build(shape)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.15 * torch.randn(parameter.shape, generator=generator)
    return network


def inputs(network: Network, shape: tuple[int, ...], batch: int = 4) -> tuple[Tensor, Tensor, Embedding]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *shape, generator=generator)
    vector = torch.randn(batch, network.cond_width, generator=generator)
    return x, torch.linspace(0.0, 900.0, batch), Embedding(vector=vector)


def executed(network: Network, call) -> set[str]:
    """Names of the blocks whose modules run during a call."""
    ran: set[str] = set()
    modules = {name.removesuffix(".residual"): name for name in network.graph}
    handles = [
        network.get_submodule(path).register_forward_hook(lambda *_, name=name: ran.add(name))
        for path, name in {
            path: path if f"{path}.residual" not in network.graph else f"{path}.residual" for path in modules
        }.items()
    ]
    call()
    for handle in handles:
        handle.remove()
    return ran


@cases
def test_every_block_can_be_tapped_and_given_back_bit_equally(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = live(part, shape)
    x, told, cond = inputs(network, shape)
    names = tuple(network.graph)
    with torch.no_grad():
        plain = network(x, told, cond)
        tapped = network(x, told, cond, taps=names)
        assert torch.equal(tapped.value, plain.value)
        assert set(tapped.features) == set(names)
        for name, feature in tapped.features.items():
            assert feature.shape[1 if feature.ndim == 4 else -1] == network.widths[name]
            again = network(x, told, cond, given={name: feature}).value
            assert torch.equal(again, plain.value), name


@cases
def test_what_runs_is_what_needed_says(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = live(part, shape)
    x, told, cond = inputs(network, shape)
    features = network(x, told, cond, taps=tuple(network.graph)).features
    # Sums of a transformer's residual stream are not modules.
    sums = {name for name in network.graph if f"{name}.residual" in network.graph}
    for name in network.graph:
        ran = executed(network, lambda name=name: network(x, told, cond, given={name: features[name]}))
        assert ran == set(network.needed([name])) - sums


def test_deep_cache_and_encoder_propagation_skip_what_they_should() -> None:
    network = live(UNET, (3, 8, 8))
    assert network.needed(["up.0.sample"]) == ("stem", "down.0.0", "up.1.0", "up.1.1", "output")
    encoder = [name for name in network.graph if name.startswith("down") or name == "mid"]
    # The stem is the last skip, so it still runs; all blocks of the way up do.
    assert network.needed(encoder) == ("stem", *(name for name in network.graph if name[:2] in ("up", "ou")))


def test_a_given_residual_is_added_to_the_tokens_that_arrive() -> None:
    network = live(DIT, (3, 8, 8))
    x, told, _ = inputs(network, (3, 8, 8))
    residual = torch.ones(4, 16, 32)
    out = network(x, told, taps=("blocks.0", "blocks.1"), given={"blocks.1.residual": residual})
    assert torch.equal(out.features["blocks.1"], out.features["blocks.0"] + 1.0)


@cases
def test_the_condition_and_the_noise_level_change_the_output(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = live(part, shape)
    x, told, cond = inputs(network, shape)
    plain = network(x, told).value
    assert not torch.allclose(plain, network(x, told, cond).value, atol=1e-3)
    assert not torch.allclose(plain, network(x, told + 1.0).value, atol=1e-4)
    assert torch.equal(plain, network(x, told, Embedding(vector=torch.zeros(4, network.cond_width))).value)


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        (UNet(channels=16, multipliers=(1, 2), groups=8), (3, 8, 8)),
        (DIT, (3, 8, 8)),
        (MLP(width=8), (2,)),
        (DIFFNEXT.replace(head="plain"), (3, 8, 8)),
        (PRIOR, (3, 8, 8)),
    ],
    ids=["unet", "dit", "mlp", "diffnext", "convnext_prior"],
)
def test_untrained_networks_are_exactly_zero(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = part.build(shape, out_channels=5)
    value = network(*inputs(network, shape)).value
    assert value.shape[1] == 5
    assert not value.any()


@cases
def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone(
    part: NetworkPart, shape: tuple[int, ...]
) -> None:
    before = torch.get_rng_state()
    first, again, other = (part.build(shape, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert count_parameters(part, shape) == sum(tensor.numel() for tensor in first.values())


@cases
def test_dropout_of_a_sample_is_the_same_in_any_batch(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = live(part.replace(dropout=0.3), shape)
    x, told, cond = inputs(network, shape)
    seeds = keys(0, "dropout", 0, torch.arange(4))
    with torch.no_grad():
        whole = network(x, told, cond, seeds=seeds).value
        alone = [
            network(x[i : i + 1], told[i : i + 1], Embedding(vector=cond.vector[i : i + 1]), seeds=seeds[i : i + 1])
            for i in range(4)
        ]
        split = torch.cat([out.value for out in alone])
        # Masks are bit-equal; kernels sum in another order in another batch.
        torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(network(x, told, cond, seeds=seeds + 1).value, whole, atol=1e-2)
        undropped = network(x, told, cond).value
        assert not torch.allclose(undropped, whole, atol=1e-2)
        assert torch.equal(undropped, live(part, shape)(x, told, cond).value)


@cases
def test_no_two_layers_share_their_dropout(part: NetworkPart, shape: tuple[int, ...]) -> None:
    salts = [module.salt for module in part.build(shape).modules() if isinstance(module, Dropout)]
    assert len(salts) == len(set(salts)) > 2


@cases
def test_checkpointing_gives_equal_gradients(part: NetworkPart, shape: tuple[int, ...]) -> None:
    gradients = []
    for checkpointing in (False, True):
        network = live(part.replace(dropout=0.3, checkpointing=checkpointing), shape)
        x, told, cond = inputs(network, shape)
        network(x, told, cond, seeds=torch.arange(4)).value.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0, name
        assert torch.equal(gradient, gradients[1][name]), name


@cases
def test_autocast_keeps_the_noise_level_in_float32(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = live(part, shape)
    x, _, cond = inputs(network, shape)
    told = torch.tensor([997.0, 998.0, 999.0, 999.0])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        waves = network.time.sinusoids(told)
        value = network(x, told, cond).value
    assert waves.dtype == torch.float32
    # In bfloat16 all of these numbers are 1000.
    assert not torch.allclose(waves[0], waves[1], atol=0.1)
    exact = network(x, told, cond).value
    # bfloat16 has 8 bits; errors of a few roundings are some per cent of the output's size.
    assert (value.float() - exact).abs().mean() < 0.05 * exact.abs().mean()
    with pytest.raises(UsageError, match=r"told has dtype torch\.bfloat16.*pass float32"):
        network(x, told.bfloat16(), cond)


@cases
def test_half_precision_weights_keep_exact_frequencies(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = live(part, shape)
    frequencies = network.time.sinusoids.frequencies.table.clone()
    network.to(torch.bfloat16)
    assert torch.equal(network.time.sinusoids.frequencies.table, frequencies)
    x, told, _ = inputs(network, shape)
    assert network(x.bfloat16(), told).value.dtype == torch.bfloat16


@cases
def test_networks_can_be_made_without_memory_and_filled_later(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = live(part, shape)
    x, told, cond = inputs(network, shape)
    with torch.device("meta"):
        empty = part.build(shape)
    empty.to_empty(device="cpu").load_state_dict(network.state_dict())
    assert torch.equal(empty(x, told, cond).value, network(x, told, cond).value)


@cases
def test_the_state_dict_is_ready_for_safetensors(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = part.build(shape)
    weights = network.state_dict()
    assert save(weights)  # refuses strided and shared tensors
    assert set(weights) == {name for name, _ in network.named_parameters()}


@cases
def test_parts_survive_plain_data(part: NetworkPart, shape: tuple[int, ...]) -> None:
    assert type(part).model_validate(part.dump()) == part


@cases
def test_unknown_names_are_refused_with_the_nearest(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = part.build(shape)
    x, told, cond = inputs(network, shape)
    name = list(network.graph)[1]
    with pytest.raises(UsageError, match=rf"block '{name}x' does not exist; did you mean"):
        network(x, told, cond, taps=(f"{name}x",))
    with pytest.raises(UsageError, match="block 'nowhere' does not exist"):
        network(x, told, cond, given={"nowhere": x})
    with pytest.raises(UsageError, match=r"cond\.vector has shape \(4, 3\).*cond_width"):
        network(x, told, Embedding(vector=torch.zeros(4, 3)))


@cases
def test_inputs_and_features_are_left_alone(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = live(part, shape)
    x, told, cond = inputs(network, shape)
    copy = x.clone()
    with torch.no_grad():
        # In-place activations must not reach what a tap hands out.
        features = network(x, told, cond, taps=tuple(network.graph)).features
        kept = {name: feature.clone() for name, feature in features.items()}
        network(x, told, cond, given={name: features[name] for name in list(features)[:2]})
    assert torch.equal(x, copy)
    assert all(torch.equal(features[name], kept[name]) for name in kept)


@cases
def test_traces_without_graph_breaks(part: NetworkPart, shape: tuple[int, ...]) -> None:
    network = live(part.replace(dropout=0.1), shape)
    x, told, cond = inputs(network, shape)
    seeds = torch.arange(4)
    with torch.no_grad():
        # The eager backend traces only: inductor would take minutes on a CPU.
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(
            compiled(x, told, cond, seeds=seeds).value, network(x, told, cond, seeds=seeds).value
        )


def test_modules_stand_where_their_names_say() -> None:
    network = UNET.build((3, 8, 8))
    assert all(isinstance(network.get_submodule(name), nn.Module) for name in network.graph)
