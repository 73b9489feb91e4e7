"""A consistency training step against its parts done by hand and against the published loop; jumps; exact transport."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import DIGITS, RGB32
from benchmarks.timing import alternate, ratio
from suffuse.base.batch import Batch
from suffuse.base.randomness import Draws
from suffuse.models.config import ModelConfig
from suffuse.models.flow_map import FlowMap
from suffuse.networks import MLP, NetworkPart
from suffuse.networks.blocks.dropout import Dropout
from suffuse.objectives import Consistency
from suffuse.process import EDM, ConsistencyPrediction, GridPairs, LogSigma, OptimalTransport
from suffuse.process.curriculum import Fixed
from suffuse.sampling import Consistency as Jumps
from suffuse.sampling import Karras, sample
from suffuse.training.radam import RAdam
from suffuse.training.settings import OptimiserSettings, TrainingSettings
from suffuse.training.trainer import Trainer
from suffuse.training.world import World

__all__ = ["measure"]

_MLP = (MLP(width=256, depth=4, zero_init=False), (1, 8, 8))
_INTERVALS = 160


def _map(network: NetworkPart, shape: tuple[int, ...]) -> FlowMap:
    config = ModelConfig(
        network=network,
        shape=shape,
        path=EDM(),
        prediction=ConsistencyPrediction(),
        time=LogSigma(),
        flow_map=Consistency().flow_map(),
    )
    model = config.build()
    assert isinstance(model, FlowMap)
    return model


def _trainer(model: FlowMap, batch: int) -> Callable[[Tensor], object]:
    objective = Consistency(pairs=GridPairs(curriculum=Fixed(count=_INTERVALS)))
    settings = TrainingSettings(batch=batch, steps=10_000)
    trainer = Trainer(
        model,
        objective,
        settings,
        OptimiserSettings(kind="radam", lr=1e-4, clip=None),
        World(0, 1, torch.device("cpu")),
    )
    draws = Draws(0, torch.arange(batch), total=batch)
    return lambda x0: trainer.train_step(Batch(x0=x0), draws.at(trainer.step))


def _by_hand(model: FlowMap, batch: int) -> Callable[[Tensor], object]:
    """Two evaluations of the bare network with its dropout, backward and a step of the same optimiser; no more."""
    optimiser = RAdam(model.network.parameters(), lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    told, seeds = torch.zeros(batch), Draws(0, torch.arange(batch), total=batch).keys("network")

    def step(x0: Tensor) -> None:
        optimiser.zero_grad()
        value = model.network(x0, told, seeds=seeds).value
        with torch.no_grad():
            target = model.network(x0, told, seeds=seeds).value
        (value - target).square().mean().backward()
        optimiser.step()

    return step


class _Drawn(nn.Module):
    """torch's dropout in the place of ours: masks from the global generator."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        return F.dropout(x, self.p, training=self.training)


class _Published:
    """What the public PyTorch code of consistency models does in a step, written anew on the same network.

    A second model for the target, followed parameter by parameter; an average for evaluation, too; dropout shared by
    saving and restoring the generator's state; torch's own RAdam; levels by the same law.
    """

    def __init__(self, model: FlowMap, batch: int) -> None:
        for module in [*model.modules()]:
            for name, child in module.named_children():
                if isinstance(child, Dropout):
                    setattr(module, name, _Drawn(child.p))
        self.model = model.train()
        self.target, self.average = (copy.deepcopy(model).requires_grad_(requires_grad=False) for _ in range(2))
        self.optimiser = torch.optim.RAdam(model.parameters(), lr=1e-4)
        t, _ = GridPairs().grid(EDM(), _INTERVALS)
        self.t, self.p = t.float(), GridPairs().probabilities(EDM(), _INTERVALS)
        self.batch = batch

    def _f(self, model: FlowMap, x: Tensor, t: Tensor) -> Tensor:
        sd, eps = 0.5, 0.002
        shape = (-1, *(1,) * (x.ndim - 1))
        c_skip = (sd**2 / ((t - eps) ** 2 + sd**2)).reshape(shape)
        c_out = (sd * (t - eps) / (t**2 + sd**2).sqrt()).reshape(shape)
        c_in = (1 / (t**2 + sd**2).sqrt()).reshape(shape)
        value: Tensor = c_skip * x + c_out * model.network(c_in * x, 0.25 * t.log()).value
        return value

    def step(self, x0: Tensor) -> None:
        """One step."""
        i = torch.multinomial(self.p, self.batch, replacement=True)
        t, s, noise = self.t[i + 1], self.t[i], torch.randn_like(x0)
        shape = (-1, *(1,) * (x0.ndim - 1))
        state = torch.get_rng_state()
        mine = self._f(self.model, x0 + noise * t.reshape(shape), t)
        torch.set_rng_state(state)
        with torch.no_grad():
            target = self._f(self.target, x0 + noise * s.reshape(shape), s)
        c = 0.00054 * x0[0].numel() ** 0.5
        loss = ((mine - target).square().flatten(1).sum(1) + c * c).sqrt() - c
        (loss / (t - s)).mean().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            for theirs, p in zip(self.target.parameters(), self.model.parameters(), strict=True):
                theirs.mul_(0.0).add_(p, alpha=1.0)
            for theirs, p in zip(self.average.parameters(), self.model.parameters(), strict=True):
                theirs.mul_(0.9999).add_(p, alpha=0.0001)


def _steps(
    name: str, network: NetworkPart, shape: tuple[int, ...], batch: int, rounds: int
) -> list[tuple[str, str, str]]:
    x0 = torch.rand(batch, *shape) * 2 - 1
    ours, hand = _trainer(_map(network, shape), batch), _by_hand(_map(network, shape), batch)
    published = _Published(_map(network, shape), batch)
    ways = {"ours": lambda: ours(x0), "by hand": lambda: hand(x0), "published": lambda: published.step(x0)}
    repeated = {key: _several(way, 5) for key, way in ways.items()}
    times = alternate(repeated, rounds=rounds)
    rows = []
    for what, a, b, goal in (
        ("consistency step over two evaluations, backward and optimiser by hand", "ours", "by hand", "at most 1.05"),
        ("consistency step, the published loop over ours", "published", "ours", "at least 1.2"),
    ):
        middle, low, high = ratio(times[a], times[b])
        rows.append((f"{what}: {name}, batch {batch}", f"{middle:.3f} ({low:.3f} to {high:.3f})", goal))
    return rows


def _several(way: Callable[[], object], count: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            way()

    return run


def _jumps(rounds: int) -> list[tuple[str, str, str]]:
    rows = []
    for name, (network, shape), batch in (("U-Net 6 M, 32x32", RGB32, 64), ("MLP 0.9 M, 8x8", _MLP, 1000)):
        model = _map(network, shape).eval()

        def bare(model: FlowMap = model, batch: int = batch, shape: tuple[int, ...] = shape) -> None:
            with torch.no_grad():
                model.network(torch.randn(batch, *shape), torch.zeros(batch))

        def jump(model: FlowMap = model, batch: int = batch) -> None:
            sample(model, batch, solver=Jumps(), grid=Karras(sigma_min=0.8, steps=1), batch=batch)

        times = alternate({"jump": jump, "bare": bare}, rounds=rounds)
        middle, low, high = ratio(times["jump"], times["bare"])
        what = f"one-step sampling over a bare forward with its noise: {name}, batch {batch}"
        rows.append((what, f"{middle:.3f} ({low:.3f} to {high:.3f})", "at most 1.03"))
    return rows


def _transport() -> list[tuple[str, str, str]]:
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(256, 3, 32, 32, generator=generator) for _ in range(2))
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        OptimalTransport().order(x0, eps)
        seconds.append(time.perf_counter() - began)
    return [("exact transport of a batch of 256, 3x32x32", f"{1000 * min(seconds[1:]):.0f} ms", "hidden by the loader")]


def measure(rounds: int) -> list[tuple[str, str, str]]:
    """Rows of (what, figure, goal)."""
    unet, shape = RGB32
    small, digits = DIGITS
    return [
        *_steps("U-Net 6 M, 32x32", unet.replace(dropout=0.3), shape, 16, rounds),
        *_steps("digits network, U-Net", small, digits, 128, rounds),
        *_steps("MLP 0.9 M, 8x8", *_MLP, 128, rounds),
        *_jumps(rounds),
        *_transport(),
    ]
