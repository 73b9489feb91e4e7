"""diffusers networks under our contract: what they return, what they skip, and that nothing stays patched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import (
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import Tensor, nn

from suffuse.base.conditions import Embedding
from suffuse.base.errors import UsageError
from suffuse.networks.external import DiffusersNetwork
from suffuse.networks.external.patching import replaced_forwards
from suffuse.networks.part import seeded

SMALL = {"sample_size": 8, "block_out_channels": (8, 16, 16), "layers_per_block": 2, "norm_num_groups": 4}


def randomised(make: Callable[[], nn.Module]) -> nn.Module:
    with seeded(0):
        model = make()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def unet() -> nn.Module:
    return UNet2DModel(
        **SMALL,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def labelled() -> nn.Module:
    return UNet2DModel(
        **SMALL,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        num_class_embeds=4,
    )


def conditional() -> nn.Module:
    return UNet2DConditionModel(
        **SMALL,
        in_channels=3,
        out_channels=3,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
    )


def transformer() -> nn.Module:
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        num_layers=4,
        sample_size=8,
        num_embeds_ada_norm=4,
    )


def pixart() -> nn.Module:
    return PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        out_channels=3,
        num_layers=4,
        cross_attention_dim=16,
        sample_size=8,
        caption_channels=12,
        use_additional_conditions=False,
    )


def sd3() -> nn.Module:
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=6,
        pos_embed_max_size=8,
        dual_attention_layers=(1,),
        qk_norm="rms_norm",
    )


MODELS = {
    "unet": unet,
    "labelled": labelled,
    "conditional": conditional,
    "dit": transformer,
    "pixart": pixart,
    "sd3": sd3,
}
all_models = pytest.mark.parametrize("name", MODELS)


def setting(name: str, side: int = 8) -> tuple[DiffusersNetwork, Tensor, Tensor, Embedding | None]:
    network = DiffusersNetwork(randomised(MODELS[name]))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, side, side, generator=generator)
    cond = None
    if name in ("conditional", "pixart", "sd3"):
        pooled = torch.randn(2, 6, generator=generator) if name == "sd3" else None
        cond = Embedding(vector=pooled, tokens=torch.randn(2, 5, 12, generator=generator))
    elif network.label_count is not None:
        cond = Embedding(vector=torch.tensor([[1], [3]]))
    return network, x, torch.tensor([10.0, 500.0]), cond


def patched(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if "forward" in module.__dict__]


def ran(network: DiffusersNetwork, call: Callable[[], object]) -> int:
    """How many leaf modules run during a call."""
    count = [0]

    def add(*_: object) -> None:
        count[0] += 1

    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [module.register_forward_hook(add) for module in leaves]
    call()
    for handle in handles:
        handle.remove()
    return count[0]


@all_models
def test_the_wrapper_adds_nothing(name: str) -> None:
    network, x, told, cond = setting(name)
    arguments = {"class_labels": torch.tensor([1, 3])} if network.label_count else {}
    if name in ("conditional", "pixart", "sd3"):
        arguments = {"encoder_hidden_states": cond.tokens}
    if name == "pixart":
        arguments["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    if name == "sd3":
        arguments["pooled_projections"] = cond.vector
    with torch.no_grad():
        assert torch.equal(network(x, told, cond).value, network.model(x, timestep=told, **arguments).sample)
    assert not patched(network)


@all_models
def test_what_is_tapped_can_be_given_back(name: str) -> None:
    network, x, told, cond = setting(name)
    names = tuple(network.graph)
    with torch.no_grad():
        plain = network(x, told, cond).value
        out = network(x, told, cond, taps=names)
        assert torch.equal(out.value, plain)
        assert set(out.features) == set(names)
        for block, feature in out.features.items():
            assert feature.shape[1 if feature.ndim == 4 else -1] == network.widths[block], block
            again = network(x, told, cond, given={block: feature}).value
            # A residual is the difference of two sums here, hence a rounding; all else is bit-equal.
            tolerance = 1e-5 if block.endswith("residual") else 0.0
            torch.testing.assert_close(again, plain, rtol=0.0, atol=tolerance, msg=block)
    assert not patched(network)


@all_models
def test_giving_a_block_skips_what_only_feeds_it(name: str) -> None:
    network, x, told, cond = setting(name)
    with torch.no_grad():
        features = network(x, told, cond, taps=tuple(network.graph)).features
        whole = ran(network, lambda: network(x, told, cond))
        for block in network.graph:
            count = ran(network, lambda block=block: network(x, told, cond, given={block: features[block]}))
            # The stem is a leaf itself, whose hook runs although its convolution does not.
            assert count < whole or block == "conv_in", block


def test_deep_cache_runs_only_the_finest_level() -> None:
    network, x, told, cond = setting("unet")
    feature = network(x, told, cond, taps=("up_blocks.1.sample",)).features["up_blocks.1.sample"]
    needed = network.needed(["up_blocks.1.sample"])
    assert needed == (
        "conv_in",
        "down_blocks.0.0",
        "down_blocks.0.1",
        *(f"up_blocks.2.{j}" for j in range(3)),
        "output",
    )
    touched: set[str] = set()
    handles = [
        module.register_forward_hook(lambda *_, name=name: touched.add(name))
        for name, module in network.model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    # Another input: what runs must see it, and what is skipped must not.
    changed = network(x + 1.0, told, cond, given={"up_blocks.1.sample": feature}).value
    for handle in handles:
        handle.remove()
    assert {name.split(".resnets")[0] for name in touched} == {"conv_in", "down_blocks.0", "up_blocks.2", "conv_out"}
    assert not torch.allclose(changed, network(x, told, cond).value, atol=1e-3)


@pytest.mark.parametrize("name", ["unet", "conditional"])
def test_encoder_propagation_does_not_read_x(name: str) -> None:
    network, x, told, cond = setting(name)
    encoder = tuple(block for block in network.graph if not block.startswith("up") and block != "output")
    with torch.no_grad():
        given = network(x, told, cond, taps=encoder).features
        there = network(x, told, cond, given=given).value
        elsewhere = network(torch.full_like(x, torch.nan), told, cond, given=given).value
        assert torch.equal(there, network(x, told, cond).value)
    assert torch.equal(there, elsewhere)


def test_a_reused_residual_is_added_to_new_tokens() -> None:
    network, x, told, cond = setting("dit")
    name = "transformer_blocks.1.residual"
    with torch.no_grad():
        residual = network(x, told, cond, taps=(name,)).features[name]
        blocks = ("transformer_blocks.0", "transformer_blocks.1")
        out = network(x + 1.0, told, cond, taps=blocks, given={name: residual})
    assert torch.equal(out.features[blocks[1]], out.features[blocks[0]] + residual)
    assert name not in network.needed([name])


def test_odd_sides_pass_through_skipped_levels() -> None:
    network, x, told, cond = setting("conditional", side=10)
    block = "up_blocks.1.0"
    with torch.no_grad():
        feature = network(x, told, cond, taps=(block,)).features[block]
        assert torch.equal(network(x, told, cond, given={block: feature}).value, network(x, told, cond).value)


@all_models
def test_forwards_come_back_after_an_exception(name: str) -> None:
    network, x, told, cond = setting(name)
    tap = list(network.graph)[2]

    def fail(*_: object) -> None:
        assert patched(network)
        raise RuntimeError("in the middle")

    last = next(
        getattr(network.model, part) for part in ("conv_out", "proj_out_2", "proj_out") if hasattr(network.model, part)
    )
    handle = last.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        network(x, told, cond, taps=(tap,))
    handle.remove()
    assert not patched(network)


def test_a_forward_that_somebody_else_replaced_comes_back() -> None:
    module = randomised(lambda: nn.Linear(2, 2))

    def theirs(x: Tensor) -> Tensor:
        return x * 3.0

    module.forward = theirs
    with replaced_forwards({module: lambda x: x}):
        assert module(torch.ones(2))[0].item() == 1.0
        with replaced_forwards({module: lambda x: x * 2.0}):
            assert module(torch.ones(2))[0].item() == 2.0
        assert module(torch.ones(2))[0].item() == 1.0
    assert module.forward is theirs


def test_gradients_flow_and_dropout_stays_off() -> None:
    network, x, told, cond = setting("dit")
    network.train()
    assert not network.model.training
    value = network(x, told, cond, taps=("transformer_blocks.1",)).value
    assert torch.equal(value, network(x, told, cond).value)
    value.square().mean().backward()
    assert network.model.pos_embed.proj.weight.grad.abs().sum() > 0


def test_stable_diffusion_3_answers_as_a_whole() -> None:
    model = randomised(
        lambda: SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            caption_projection_dim=16,
            pooled_projection_dim=10,
            out_channels=4,
        )
    )
    network = DiffusersNetwork(model)
    assert network.cond_width == 10
    generator = torch.Generator().manual_seed(1)
    x, tokens, pooled = (torch.randn(2, *shape, generator=generator) for shape in ((4, 8, 8), (5, 12), (10,)))
    told = torch.tensor([10.0, 500.0])
    with torch.no_grad():
        value = network(x, told, Embedding(vector=pooled, tokens=tokens)).value
        expected = model(hidden_states=x, timestep=told, encoder_hidden_states=tokens, pooled_projections=pooled).sample
    assert torch.equal(value, expected)


def test_wrong_uses_are_explained() -> None:
    network, x, told, _ = setting("labelled")
    with pytest.raises(UsageError, match=r"embeds labels itself.*\(B, 1\) of an integer type, not nothing"):
        network(x, told)
    with pytest.raises(UsageError, match=r"not torch\.float32 of shape \(2, 1\)"):
        network(x, told, Embedding(vector=torch.zeros(2, 1)))
    with pytest.raises(UsageError, match="did you mean 'mid_block'"):
        network(x, told, taps=("mid_blocks",))
    crossed = setting("conditional")[0]
    with pytest.raises(UsageError, match=r"needs cond\.tokens"):
        crossed(x, told)
    with pytest.raises(UsageError, match="diffusers network 'Identity' does not exist"):
        DiffusersNetwork(nn.Identity())
    dropped = DiffusersNetwork(
        randomised(
            lambda: UNet2DModel(
                **SMALL, down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3, dropout=0.1
            )
        )
    )
    with pytest.raises(UsageError, match="dropout, which cannot be keyed by seeds"):
        dropped(x, told, seeds=torch.arange(2))
