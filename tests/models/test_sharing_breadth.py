"""E-TSDM on every path, network and condition: constant within a sub-interval to the bit, and nowhere else."""

from __future__ import annotations

import itertools

import pytest
import torch

from suffuse.base.conditions import Conditions
from suffuse.models.conditioner import ClassLabel, ConditionerPart, NoCondition
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.low_resolution import LowResolution
from suffuse.networks import DiT, NetworkPart, UNet
from suffuse.process import VP, Flow, Identity, PathPart, SharedTimesteps

PATHS: dict[str, PathPart] = {
    "linear table": VP(steps=1000),
    "cosine table": VP(schedule="cosine", steps=1000),
    "scaled linear table": VP(schedule="scaled_linear", steps=1000),
    "linear": VP(),
    "cosine": VP(schedule="cosine"),
    "flow": Flow(),
}
NETWORKS: dict[str, NetworkPart] = {
    "unet": UNet(channels=8, multipliers=(1,), blocks=1, attention_levels=(), mid_attention=False, groups=4),
    "dit": DiT(width=16, depth=1, heads=2, patch=2),
}
CONDITIONERS: dict[str, ConditionerPart] = {
    "unconditional": NoCondition(),
    "class": ClassLabel(classes=3),
    "super-resolution": LowResolution(factor=2),
}
NAMES = list(itertools.product(PATHS, NETWORKS, CONDITIONERS, (1.0, 2.0)))


def stirred(config: ModelConfig) -> Denoiser:
    """The model with weights that are nowhere zero: fresh networks ignore the time behind gates of zero."""
    model = config.build(seed=0).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.arange(p.numel()).reshape(p.shape).cos()
    return model


@pytest.mark.parametrize(("path", "network", "conditioner", "power"), NAMES)
def test_it_is_constant_within_a_sub_interval_and_nowhere_else(
    path: str, network: str, conditioner: str, power: float
) -> None:
    on = PATHS[path]
    unit = 1.0 if on.indices else 1e-3  # an index, or a thousandth of the path
    config = ModelConfig(
        network=NETWORKS[network],
        shape=(1, 8, 8),
        path=on,
        prediction="v",
        conditioner=CONDITIONERS[conditioner],
        time=SharedTimesteps(power=power),
    )
    shared, plain = stirred(config), stirred(config.replace(time=Identity()))
    x = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
    cond = {
        "unconditional": Conditions(),
        "class": Conditions.of(label=torch.tensor([0, 2])),
        "super-resolution": Conditions.of(low_res=x[:, :, ::2, ::2]),
    }[conditioner]
    edges = [100 * (k / 5) ** power for k in range(6)]

    def raw(model: Denoiser, t: float) -> torch.Tensor:
        with torch.no_grad():
            return model.evaluate(x, t * unit, cond).raw

    for first, last in itertools.pairwise(edges):
        inside = [raw(shared, first + share * (last - first)) for share in (0.0, 0.4, 0.9)]
        assert torch.equal(inside[0], inside[1])
        assert torch.equal(inside[0], inside[2])
        assert torch.equal(inside[0], raw(plain, first))
        assert not torch.equal(inside[0], raw(shared, last)), "an edge separates nothing"
    for t in (100.0, 500.0, 990.0):
        assert torch.equal(raw(shared, t), raw(plain, t))
