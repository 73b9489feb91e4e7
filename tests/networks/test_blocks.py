"""Blocks against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from suffuse.networks.blocks.attention import SelfAttention
from suffuse.networks.blocks.dropout import dropout, layer_salt, layer_seeds
from suffuse.networks.blocks.embeddings import Sinusoids, grid_positions
from suffuse.networks.blocks.norms import GroupNorm
from suffuse.networks.contract import Network
from suffuse.networks.execution import execute
from suffuse.networks.part import seeded


def test_sinusoids_are_those_of_the_formula() -> None:
    told = torch.tensor([0.0, 3.5, 999.0])
    for shift, cosine_first in ((0, True), (1, False)):
        waves = Sinusoids(8, freq_shift=shift, cosine_first=cosine_first)(told)
        for b, t in enumerate(told.tolist()):
            for i in range(4):
                angle = t * 10_000 ** (-i / (4 - shift))
                pair = (math.cos(angle), math.sin(angle)) if cosine_first else (math.sin(angle), math.cos(angle))
                # An angle of 999 has 6e-5 of rounding in float32.
                assert abs(waves[b, i].item() - pair[0]) < 1e-4
                assert abs(waves[b, i + 4].item() - pair[1]) < 1e-4


def test_positions_tell_every_cell_apart_and_columns_come_first() -> None:
    positions = grid_positions(3, 5, 16)
    distances = torch.cdist(positions, positions) + torch.eye(15) * 9
    assert distances.min() > 0.1
    grid = positions.view(3, 5, 16)
    assert torch.equal(grid[0, :, :8], grid[2, :, :8])  # the first half is the column alone
    assert torch.equal(grid[:, 0, 8:], grid[:, 4, 8:])  # the second the row
    assert grid[0, 3, 0].item() == torch.tensor(3.0).sin().item()


def test_attention_is_softmax_of_scaled_products() -> None:
    with seeded(0):
        attend = SelfAttention(8, heads=2).double()
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, k, v = attend.qkv(x).chunk(3, dim=-1)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        weights = (q[..., h] @ k[..., h].transpose(1, 2) / 2.0).softmax(dim=-1)
        heads.append(weights @ v[..., h])
    torch.testing.assert_close(attend(x), attend.out(torch.cat(heads, dim=-1)))


def test_dropout_masks_differ_between_layers_and_keep_the_mean() -> None:
    x = torch.ones(4, 5000)
    seeds = torch.arange(4)
    first, second = (dropout(x, 0.25, seeds, layer_salt(layer)) for layer in (0, 1))
    assert set(first.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    # Independent masks agree at 0.75^2 + 0.25^2 = 0.625 of the elements; 20,000 of them: deviation 0.0034.
    assert abs(((first > 0) == (second > 0)).float().mean().item() - 0.625) < 0.015
    assert abs(first.mean().item() - 1.0) < 0.02
    assert not torch.equal(first[0], first[1])
    assert torch.equal(dropout(x, 0.25, seeds[2:3], layer_salt(0))[0], first[2])
    assert dropout(x, 0.25, None, 0) is x


def test_layers_share_no_keys() -> None:
    seeds = torch.arange(1000)
    all_keys = torch.cat([layer_seeds(seeds, layer_salt(layer)) for layer in range(20)])
    assert len(all_keys.unique()) == len(all_keys)


class _Diamond(Network):
    """a -> b, c -> output, with values that tell what ran."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = {"a": (), "b": ("a",), "c": ("a",), "output": ("b", "c")}
        self.widths = dict.fromkeys(self.graph, 1)
        self.cond_width = 1

    def forward(self, x, told, cond=None, *, seeds=None, taps=(), given=None):
        self.ran = []

        def compute(name: str, values: list[torch.Tensor]) -> torch.Tensor:
            self.ran.append(name)
            return x if not values else sum(values) + 1.0

        return execute(self, compute, taps=taps, given=given)


def test_execution_runs_only_what_output_and_taps_need() -> None:
    network, x = _Diamond(), torch.ones(1)
    assert network(x, x).value.item() == 5.0
    given = {"b": torch.tensor([10.0]), "c": torch.tensor([20.0])}
    assert network(x, x, given=given).value.item() == 31.0
    assert network.ran == ["output"]
    out = network(x, x, given=given, taps=("a", "b"))
    assert network.ran == ["a", "output"]
    assert out.features == {"a": x, "b": given["b"]}
    assert network(x, x, given={"output": x}, taps=("output",)).features == {"output": x}
    assert network.ran == []


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("side", [4, 32])
def test_group_norm_in_bfloat16_is_the_float32_one_rounded(side: int, grad: bool) -> None:
    norm = GroupNorm(4, 8)
    x = torch.randn(2, 8, side, side, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    x = x.to(memory_format=torch.channels_last).requires_grad_(grad)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
        found = norm(x)
    exact = torch.nn.functional.group_norm(x.float(), 4)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=2**-7, atol=2**-7)  # half a unit in the last place, twice
    if grad:
        found.float().square().sum().backward()
        assert x.grad is not None
        assert x.grad.dtype is torch.bfloat16
