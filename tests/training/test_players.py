"""Players: a step of several turns, each with weights and an optimiser of its own, resumed to the bit."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from suffuse.base.errors import RunError, UsageError
from suffuse.base.part import parse
from suffuse.data import Loader
from suffuse.objectives import Progress
from suffuse.training import extractor, handed
from suffuse.training.codec_recipe import CodecRecipe
from suffuse.training.recipe_files import merged
from suffuse.training.run import Watcher, train
from suffuse.training.signals import Stopped
from suffuse.training.trainer import Trainer
from suffuse.training.world import World

Remains = Callable[[Path], dict[str, Any]]
ALONE = World(0, 1, torch.device("cpu"))
LEVELS = {"channels": 4, "multipliers": [1, 2], "blocks": 1, "latent_channels": 2, "groups": 2, "attention": False}
CODES = {"kind": "vq", **LEVELS, "codebook": {"size": 9, "learns": "ema", "decay": 0.5, "dead": 0.3}}
ADVERSARIAL = {"start": 2, "discriminator": {"width": 8, "layers": 1}}
RECIPE: dict[str, Any] = {
    "learns": "codec",
    "data": {"kind": "digits"},
    "network": CODES,
    "objective": {"kind": "autoencoding", "adversarial": ADVERSARIAL},
    "optimiser": {"lr": 1e-2},
    "training": {"steps": 6, "batch": 8, "ema": [100], "log_every": 2, "checkpoint_every": 3, "device": "cpu"},
}


def recipe_of(out: Path | None = None, **changes: Any) -> CodecRecipe:
    return parse(CodecRecipe, merged(RECIPE, {"out": None if out is None else str(out), **changes}))


def trainer_of(recipe: CodecRecipe) -> tuple[Trainer, Loader]:
    dataset, settings = recipe.data.load(), recipe.training
    model = recipe.resolve(dataset).model.build(seed=settings.seed)
    return Trainer(model, recipe.objective, settings, recipe.optimiser, ALONE), recipe.loader(dataset, ALONE)


def step(trainer: Trainer, loader: Loader) -> dict[str, torch.Tensor]:
    return trainer.train_step(loader.at(trainer.step), loader.draws(trainer.step))


# A step


def test_every_weight_has_one_player() -> None:
    trainer, _ = trainer_of(recipe_of())
    first, second = trainer.players
    assert (first.name, second.name) == ("model", "discriminator")
    assert not first.named.keys() & second.named.keys()
    assert {name.split(".")[0] for name in first.named} == {"network"}
    assert {name.rsplit(".", 2)[0] for name in second.named} == {"objective.discriminator"}
    assert trainer.named == first.named | second.named
    assert first.optimiser is trainer.optimiser is not second.optimiser


def test_a_player_that_sits_out_keeps_its_weights() -> None:
    trainer, loader = trainer_of(recipe_of())
    before = copy.deepcopy(trainer.state()["objective"])
    for turn in range(3):
        report = step(trainer, loader)
        same = all(torch.equal(before[name], tensor) for name, tensor in trainer.state()["objective"].items())
        assert same == (turn < 2)
        assert bool(report["discriminator_grad_norm"]) == bool(report["discriminator"]) == (turn == 2)


def test_each_turn_is_a_step_of_its_own() -> None:
    """By hand: the model's step against a frozen adversary, then the adversary's against what the model now makes."""
    # Biases in front of norms have gradients of rounding alone, which Adam would make steps of but for its eps.
    adversarial = {"start": 0, "discriminator": {"norm": "group"}}
    recipe = recipe_of(objective={"adversarial": adversarial}, optimiser={"eps": 1e-3})
    trainer, loader = trainer_of(recipe)
    by_hand, _ = trainer_of(recipe)
    report = step(trainer, loader)
    batch, draws, progress = loader.at(0), loader.draws(0), Progress(0, 6)
    for player in by_hand.players:
        player.optimiser.zero_grad()
        losses = by_hand.objective(by_hand.model, batch, progress, draws, player.name)
        means = {name: loss.mean() for name, loss in losses.items()}
        weights = list(player.named.values())
        for weight, grad in zip(weights, torch.autograd.grad(sum(means.values()), weights), strict=True):
            weight.grad = grad.contiguous()  # the fused update reads both in one order
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for group in player.optimiser.param_groups:
            group["lr"] = recipe.optimiser.lr
        player.optimiser.step()
        torch.testing.assert_close({name: report[name] for name in means}, means)
    torch.testing.assert_close(dict(trainer.named), dict(by_hand.named))


def test_whose_turn_it_is_not_has_frozen_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, loader = trainer_of(recipe_of(objective={"adversarial": {"start": 0}}))
    seen: list[tuple[str, ...]] = []
    real = trainer.objective

    class Watched(torch.nn.Module):
        players = real.players  # type: ignore[attr-defined]  # it is the contested one

        def __call__(self, model: Any, batch: Any, progress: Any, noise: Any, player: str = "model") -> Any:
            free = [each.name for each in trainer.players for p in each.named.values() if p.requires_grad]
            seen.append((player, *sorted(set(free))))
            return real(model, batch, progress, noise, player)

    monkeypatch.setattr(trainer, "objective", Watched())
    step(trainer, loader)
    assert seen == [("model", "model"), ("discriminator", "discriminator")]


def test_frozen_weights_thaw_even_after_a_failure() -> None:
    trainer, loader = trainer_of(recipe_of(objective={"adversarial": {"start": 0}}))
    trainer.model.network.last_layer.data.fill_(float("nan"))
    with pytest.raises(RunError):
        step(trainer, loader)
    assert all(p.requires_grad for p in trainer.named.values())


def test_the_report_names_all_parts_and_the_loss_is_the_models(tmp_path: Path) -> None:
    folder = train(recipe_of(tmp_path / "run"), "x").folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    parts = ("reconstruction", "codebook", "adversarial")
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line[name] for name in parts))
        assert {"discriminator", "discriminator_grad_norm", "codebook_usage", "codebook_perplexity"} <= line.keys()
    assert [line["discriminator"] > 0 for line in lines] == [False, True, True]


def test_a_discriminator_that_is_not_finite_stops_the_run_and_is_named() -> None:
    trainer, loader = trainer_of(recipe_of(objective={"adversarial": {"start": 0}}))
    name, weight = list(trainer.players[1].named.items())[-2]
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(RunError, match=r"step 0: .*\(discriminator [\d.]+, discriminator_grad_norm nan\); the gradien"):
        step(trainer, loader)
    with torch.no_grad():
        weight.fill_(float("inf"))
    with pytest.raises(RunError, match=f"weight {name} is the first that is not finite"):
        step(trainer, loader)


@pytest.mark.parametrize("network", [{"kind": "kl", **LEVELS}, CODES], ids=["kl", "vq"])
def test_accumulated_parts_are_the_whole_batch(network: dict[str, Any]) -> None:
    """With a discriminator that sees images alone, before its weight, which is taken on each part, has a say."""
    adversarial = {"start": 9, "discriminator": {"norm": "group"}}
    whole, parts = (
        trainer_of(recipe_of(network=network, objective={"adversarial": adversarial}, training={"accumulate": n}))
        for n in (1, 4)
    )
    for _ in range(3):
        first, second = step(*whole), step(*parts)
    torch.testing.assert_close(second, first, rtol=1e-3, atol=1e-4)


# Runs


VARIANTS: dict[str, dict[str, Any]] = {
    "codes as averages, a discriminator with batch norms": {},
    "codes by gradient": {"network": {"codebook": {"learns": "gradient"}}},
    "gated blocks with a batch norm": {
        "network": {"kind": "convnext_vq", "channels": 4, "levels": 1, "blocks": 1, "codebook": CODES["codebook"]}
    },
    "a vector, features": {
        "network": {"kind": "vector", **LEVELS},
        "objective": {"perceptual": "features", "reduce": "sum", "error": "l2", "kl": 1.0},
    },
}


def variant_of(name: str, out: Path) -> CodecRecipe:
    changes = dict(VARIANTS[name])
    network = changes.get("network", {})
    tree = merged(RECIPE, {"out": str(out), **changes})
    return parse(CodecRecipe, {**tree, "network": network} if "kind" in network else tree)


def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "_fit", lambda dataset, plan, index, progress: extractor._network(plan))


@pytest.fixture
def quick_features(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Features that are not trained at all, and how often they were asked for."""
    asked: list[int] = []
    real = handed.train_extractor

    def quick(dataset: Any, *, cache: Path | None, seed: int) -> Any:
        asked.append(seed)
        return real(dataset, cache=tmp_path / "features", seed=seed)

    untrained(monkeypatch)
    monkeypatch.setattr(handed, "train_extractor", quick)
    return asked


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_and_resumed_is_the_straight_run(
    variant: str, tmp_path: Path, remains: Remains, quick_features: list[int]
) -> None:
    """Stopped before the discriminator begins, and after."""
    straight = train(variant_of(variant, tmp_path / "straight"), "x").folder
    for stop in (1, 4):

        def progress(taken: int, total: int, numbers: dict[str, float], stop: int = stop) -> None:
            if taken == stop:
                signal.raise_signal(signal.SIGTERM)

        with pytest.raises(Stopped):
            train(variant_of(variant, tmp_path / "parts"), "x", resume=stop > 1, watcher=Watcher(progress=progress))
    parts = train(variant_of(variant, tmp_path / "parts"), "x", resume=True).folder
    assert remains(parts) == remains(straight)
    assert len(quick_features) == (4 if "features" in variant else 0)


def test_a_checkpoint_without_the_discriminator_is_refused(tmp_path: Path) -> None:
    trainer, _ = trainer_of(recipe_of(objective={"adversarial": None}))
    again, _ = trainer_of(recipe_of())
    with pytest.raises(UsageError, match="the checkpoint has no state of the objective"):
        again.load(trainer.state())


def test_features_are_those_of_the_judge_before_they_are_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    untrained(monkeypatch)
    features = handed.train_extractor(recipe_of().data.load(), cache=None)
    levels = features.maps(torch.zeros(2, 1, 8, 8))
    assert [level.shape for level in levels] == [(2, 32, 8, 8), (2, 64, 4, 4), (2, 64, 2, 2)]
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(features.maps(x)[-1].mean((2, 3)), features(x))
    x.requires_grad_()
    sum(level.square().sum() for level in features.maps(x)).backward()
    assert x.grad is not None
    assert x.grad.any()
    assert all(p.grad is None for p in features._network.parameters())


def test_what_cannot_be_is_said_before_any_work() -> None:
    with pytest.raises(UsageError, match=r"training.minutes times the first steps, in which the discriminator \(from"):
        recipe_of(training={"minutes": 1.0}).check()
    recipe_of(training={"minutes": 1.0}, objective={"adversarial": {"start": 0}}).check()
    recipe = recipe_of(objective={"adversarial": {"discriminator": {"layers": 3}}})
    with pytest.raises(UsageError, match="sees no patch in images of 8x8; it needs 24 pixels a side"):
        recipe.resolve(recipe.data.load())


def test_a_collapsed_codebook_is_told_once_it_should_be_in_use() -> None:
    recipe = recipe_of(training={"steps": 2000})
    assert recipe.remarks({"codebook_usage": 0.01}, 100) == ()
    assert recipe_of(training={"steps": 300}).remarks({"codebook_usage": 0.01}, 150), "half of a short run is enough"
    assert recipe.remarks({"codebook_usage": 0.3}, 1000) == ()
    assert recipe.remarks({"reconstruction": 0.01}, 1000) == ()
    (said,) = recipe.remarks({"codebook_usage": 0.01}, 1000)
    (again,) = recipe.remarks({"codebook_usage": 0.02}, 1050)
    assert said.split(":")[0] == again.split(":")[0] == "the codebook has collapsed"
    assert "0.01 of the codes" in said


def test_a_discriminator_that_wins_is_told_with_the_parts_of_the_loss() -> None:
    recipe = recipe_of(training={"steps": 2000, "log_every": 50}, objective={"adversarial": {"start": 1000}})
    lost = {"reconstruction": 0.1, "adversarial": 0.5, "discriminator": 0.001}
    assert recipe.remarks(lost, 1050) == (), "the report in which it begins has zeros from before"
    (said,) = recipe.remarks(lost, 1100)
    assert said.startswith("the discriminator wins: ")
    assert "reconstruction 0.1, adversarial 0.5, discriminator 0.001" in said
    assert recipe.remarks({**lost, "discriminator": 0.4}, 1100) == ()


def test_the_run_tells_a_collapse_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suffuse.training.codec_recipe._SETTLED", 2)
    monkeypatch.setattr("suffuse.training.codec_recipe._COLLAPSED", 2.0)
    notes: list[str] = []
    train(recipe_of(tmp_path / "run"), "x", watcher=Watcher(note=notes.append))
    assert sum("has collapsed" in note for note in notes) == 1
