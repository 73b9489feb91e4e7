"""The trainer: what a step is made of, what it must not depend on, and when it stops."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suffuse.base.errors import RunError, UsageError
from suffuse.data import Dataset, Loader
from suffuse.objectives import Progress
from suffuse.training.recipe import Recipe
from suffuse.training.trainer import Trainer
from suffuse.training.world import World

Make = Callable[..., Recipe]
ALONE = World(0, 1, torch.device("cpu"))


@functools.cache
def dataset_of(recipe: Recipe) -> Dataset:
    return recipe.data.load()


def prepared(recipe: Recipe) -> tuple[Trainer, Loader]:
    dataset = dataset_of(recipe)
    settings = recipe.training
    model = recipe.resolve(dataset).model.build(seed=settings.seed)
    trainer = Trainer(model, recipe.objective, settings, recipe.optimiser, ALONE)
    return trainer, Loader(dataset, batch=settings.batch, seed=settings.seed, flip=settings.flip)


def stepped(recipe: Recipe, steps: int) -> tuple[Trainer, list[dict[str, Tensor]]]:
    trainer, loader = prepared(recipe)
    return trainer, [trainer.train_step(loader.at(step), loader.draws(step)) for step in range(steps)]


def gradients(recipe: Recipe) -> dict[str, Tensor]:
    trainer, _ = stepped(recipe, 1)
    return {name: p.grad for name, p in trainer.named.items() if p.grad is not None}


# With the output layer at zero most gradients would be zero at first.
UNCLIPPED: dict[str, Any] = {"network": {"zero_init": False}, "optimiser": {"clip": None}}


@pytest.mark.parametrize("pictures", [False, True])
def test_accumulated_gradients_are_the_whole_batchs(tiny: Make, pictures: bool) -> None:
    """Four parts of 2 or one of 8: the same draws, another order of float32 sums; 1e-6 of the largest gradient."""
    whole = gradients(tiny(pictures=pictures, tree=UNCLIPPED))
    parts = gradients(tiny(pictures=pictures, tree=UNCLIPPED, accumulate=4))
    assert whole.keys() == parts.keys()
    largest = max(gradient.abs().max().item() for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-6 * largest, msg=name)


def test_recomputed_activations_give_equal_gradients(tiny: Make) -> None:
    """Dropout is a function of the seeds, so the second pass drops the same elements."""
    kept = gradients(tiny(pictures=True, tree=UNCLIPPED))
    again = gradients(tiny(pictures=True, tree={**UNCLIPPED, "network": {"zero_init": False, "checkpointing": True}}))
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-6, atol=1e-7, msg=name)


def test_the_gradient_is_clipped_to_its_norm_and_its_direction_kept(tiny: Make) -> None:
    free = gradients(tiny(tree=UNCLIPPED))
    trainer, (report,) = stepped(tiny(tree={**UNCLIPPED, "optimiser": {"clip": 0.01}}), 1)
    norm = torch.stack([gradient.norm() for gradient in free.values()]).norm()
    assert norm > 0.01
    torch.testing.assert_close(report["grad_norm"], norm)  # what is reported is the norm before clipping
    for name, gradient in free.items():
        torch.testing.assert_close(trainer.named[name].grad, gradient * (0.01 / norm), rtol=1e-4, atol=1e-9)


def test_a_gradient_within_the_limit_is_left_alone(tiny: Make) -> None:
    free, kept = gradients(tiny(tree=UNCLIPPED)), gradients(tiny(tree={**UNCLIPPED, "optimiser": {"clip": 1e6}}))
    assert all(torch.equal(kept[name], gradient) for name, gradient in free.items())


def test_the_first_report_is_the_mean_loss_of_the_batch(tiny: Make) -> None:
    trainer, loader = prepared(tiny())
    with torch.no_grad():
        losses = trainer.objective(trainer.model, loader.at(0), Progress(0, 8), loader.draws(0))["denoising"]
    report = trainer.train_step(loader.at(0), loader.draws(0))
    torch.testing.assert_close(report["denoising"], losses.mean())


def test_the_optimiser_follows_the_rate_of_the_step(tiny: Make) -> None:
    """Warm-up over two steps to 0.01, then the cosine: seen on the optimiser itself."""
    recipe = tiny(tree={"optimiser": {"decay": "linear"}})
    trainer, loader = prepared(recipe)
    seen = []
    for step in range(4):
        trainer.train_step(loader.at(step), loader.draws(step))
        seen.append(trainer.optimiser.param_groups[0]["lr"])
    assert seen == pytest.approx([0.01 / 2, 0.01 * 7 / 8, 0.01 * 6 / 8, 0.01 * 5 / 8])


def test_training_lowers_the_loss(tiny: Make) -> None:
    _, reports = stepped(tiny(steps=150, batch=32, tree={"network": {"width": 32}}), 150)
    losses = torch.stack([report["denoising"] for report in reports])
    assert losses[-30:].mean() < 0.8 * losses[:5].mean()


def test_bfloat16_trains_with_float32_weights(tiny: Make) -> None:
    """Three digits of mantissa: the first gradient within a few percent of float32's, not equal to it."""
    exact = gradients(tiny(pictures=True, tree=UNCLIPPED))
    trainer, reports = stepped(tiny(pictures=True, tree=UNCLIPPED, precision="bfloat16"), 3)
    assert {p.dtype for p in trainer.named.values()} == {torch.float32}
    assert all(value.isfinite() for report in reports for value in report.values())
    rounded = gradients(tiny(pictures=True, tree=UNCLIPPED, precision="bfloat16"))
    gap = torch.stack([(rounded[name] - gradient).norm() for name, gradient in exact.items()]).norm()
    norm = torch.stack([gradient.norm() for gradient in exact.values()]).norm()
    assert 0 < gap < 0.05 * norm


def test_the_averages_follow_the_trained_weights(tiny: Make) -> None:
    """One step with a half-life of 5 % of its 8 images: 2**-20 of the start is left."""
    recipe = tiny()
    trainer, loader = prepared(recipe)
    before = {name: p.detach().clone() for name, p in trainer.named.items()}
    trainer.train_step(loader.at(0), loader.draws(0))
    weights = trainer.ema.weights("ema_1000")
    for name, p in trainer.named.items():
        torch.testing.assert_close(weights[name], p.detach().lerp(before[name], 2.0**-20), rtol=1e-6, atol=1e-8)


# Compiled


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the tracer looks at every tensor it meets
def test_compile_is_asked_of_the_network_alone(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    original = nn.Module.compile

    def eager(module: nn.Module) -> None:
        compiled.append(module)
        original(module, backend="eager")  # the tracing is real, the code that is run is not compiled

    monkeypatch.setattr(nn.Module, "compile", eager)
    plain, _ = stepped(tiny(), 2)
    assert not compiled
    trainer, _ = stepped(tiny(compile=True), 2)
    assert compiled == [trainer.model.network]
    assert trainer.state()["model"].keys() == plain.state()["model"].keys()  # names without a wrapper's prefix
    for name, tensor in plain.state()["model"].items():
        torch.testing.assert_close(trainer.state()["model"][name], tensor, rtol=1e-5, atol=1e-7)


# What is not finite


def test_nan_stops_with_the_step_the_parts_and_the_first_tensor(tiny: Make) -> None:
    trainer, loader = prepared(tiny())
    for step in range(2):
        trainer.train_step(loader.at(step), loader.draws(step))
    before = {name: p.detach().clone() for name, p in trainer.named.items()}
    hook = trainer.model.network.stem.register_forward_hook(lambda module, args, out: out * float("nan"))
    with pytest.raises(RunError) as caught:
        trainer.train_step(loader.at(2), loader.draws(2))
    hook.remove()
    assert str(caught.value) == (
        "step 2: the loss or its gradient is not finite (denoising nan, grad_norm nan); "
        f"the gradient of {next(iter(trainer.named))} is the first that is not finite; "
        "lower optimiser.lr or check the data"
    )
    assert all(torch.equal(p, before[name]) for name, p in trainer.named.items())  # nothing was spoilt
    assert trainer.step == 2
    trainer.train_step(loader.at(2), loader.draws(2))


def test_an_overflowing_gradient_is_found_too(tiny: Make) -> None:
    """The loss is finite, its gradient is not: the clipped update would be NaN."""
    trainer, loader = prepared(tiny())
    name, weight = next((name, p) for name, p in trainer.named.items() if name.endswith("output.linear.weight"))
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        RunError, match=rf"step 0: .*denoising [\d.]+, grad_norm (inf|nan)\); the gradient of {name} is"
    ):
        trainer.train_step(loader.at(0), loader.draws(0))


def test_a_spoilt_weight_is_named(tiny: Make) -> None:
    trainer, loader = prepared(tiny())
    name, weight = list(trainer.named.items())[3]
    with torch.no_grad():
        weight.fill_(float("inf"))
    with pytest.raises(RunError, match=f"; weight {name} is the first that is not finite"):
        trainer.train_step(loader.at(0), loader.draws(0))


# The state


def test_a_state_taken_back_continues_to_the_bit(tiny: Make) -> None:
    recipe = tiny(pictures=True)
    straight, _ = stepped(recipe, 4)
    trainer, _ = stepped(recipe, 2)
    again, loader = prepared(recipe.replace(training=recipe.training.replace(seed=5)))  # other weights at first
    again.load(trainer.state())
    _, loader = prepared(recipe)
    for step in (2, 3):
        again.train_step(loader.at(step), loader.draws(step))
    for key in ("model", "ema", "optimiser"):
        flat = [dict(_tensors(t.state()[key])) for t in (straight, again)]
        assert flat[0].keys() == flat[1].keys()
        assert all(torch.equal(flat[1][name], tensor) for name, tensor in flat[0].items()), key


def _tensors(tree: Any, place: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        return [(place, tree)]
    return [pair for key, value in tree.items() for pair in _tensors(value, f"{place}/{key}")]


def test_a_state_of_another_architecture_is_refused_and_nothing_loaded(tiny: Make) -> None:
    state = stepped(tiny(tree={"network": {"width": 16}}), 1)[0].state()
    trainer, _ = prepared(tiny())
    before = {name: tensor.clone() for name, tensor in _tensors(trainer.state()["model"])}
    with pytest.raises(UsageError, match=r"the checkpoint's weights do not fit the model: .* of another shape"):
        trainer.load(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in _tensors(trainer.state()["model"]))


def test_a_state_with_other_averages_is_refused_and_nothing_loaded(tiny: Make) -> None:
    state = stepped(tiny(), 1)[0].state()
    trainer, _ = prepared(tiny(ema=[7.0]))
    before = {name: tensor.clone() for name, tensor in _tensors(trainer.state()["model"])}
    with pytest.raises(UsageError, match="the checkpoint has no average 'ema_7', only ema_100, ema_1000"):
        trainer.load(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in _tensors(trainer.state()["model"]))
