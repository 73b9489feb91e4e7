"""Autoguidance: away from a worse model under the same conditions, both of which are counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.randomness import Draws
from suffuse.models.conditioner import ClassLabel
from suffuse.models.config import ModelConfig
from suffuse.models.denoiser import Denoiser
from suffuse.models.exact import ExactMixture
from suffuse.networks import MLP
from suffuse.process import EDM, VP, PathPart, V
from suffuse.sampling import DDIM, Autoguidance, DPMSolverPP, Estimate, GuidancePart, Heun, Karras, Samples, sample

COND = Conditions.of(label=torch.tensor([0, 1, 2, 2, 1]))
X = 2 * Draws(0, torch.arange(5)).normal("start", (1,)).double()


class Worse(ExactMixture):
    """The same classes, each wider: what a model with too little room would learn. It notes what it is asked."""

    def __init__(self, model: ExactMixture) -> None:
        super().__init__(model.path, model.weights, model.means, 2 * model.stds)
        self.asked: list[tuple[Conditions | None, Call | None]] = []

    def denoise(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        self.asked.append((cond, call))
        return super().denoise(x, t, cond, call)


def _model(seed: int, shape: tuple[int, ...] = (3,), classes: int = 4) -> Denoiser:
    config = ModelConfig(
        shape=shape, network=MLP(width=8), path=VP(), prediction=V(), conditioner=ClassLabel(classes=classes)
    )
    model = config.build()
    draws = Draws(seed, torch.arange(1))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(0.3 * draws.normal(name, tuple(weight.shape))[0])
    return model.eval()


@pytest.mark.parametrize("scale", [-0.5, 0.5, 2.5])
def test_formula_with_the_same_condition_in_both(
    path: PathPart, scale: float, mixture: Callable[[PathPart], ExactMixture]
) -> None:
    good, bad, call = mixture(path), Worse(mixture(path)), Call(step=2)
    t = path.t_of(torch.tensor(0.3, dtype=torch.float64)).item()
    guided = Autoguidance(scale=scale, bad=bad).bind(
        lambda x, t, cond, call: Estimate(good.denoise(x, t, cond, call)), path
    )
    for cond in (COND, COND.absent(), None):
        found = guided(X, t, cond, call)
        worse, better = bad.denoise(X, t, cond), good.denoise(X, t, cond)
        torch.testing.assert_close(found.x0, worse + scale * (better - worse), rtol=1e-10, atol=1e-10)
        assert found.evaluations == 1
        assert bad.asked[-2] == (cond, call)


def test_both_models_are_counted_and_only_where_they_are_asked(mixture: Callable[[PathPart], ExactMixture]) -> None:
    good, bad = mixture(EDM()), Worse(mixture(EDM()))

    def run(guidance: GuidancePart | None) -> Samples:
        options: dict[str, Any] = {"shape": (1,), "solver": Heun(), "grid": Karras(steps=6), "cond": COND}
        return sample(good, 5, guidance=guidance, batch=2, **options)

    plain = run(None)
    assert run(Autoguidance(scale=2.0, bad=bad)).nfe == 2 * plain.nfe == 22
    assert torch.equal(run(Autoguidance(scale=2.0, bad=bad)).x, run(Autoguidance(scale=2.0, bad=bad, up_to=math.inf)).x)
    alone = run(Autoguidance(scale=0.0, bad=bad))
    assert alone.nfe == 11
    assert torch.equal(alone.x, sample(bad, 5, shape=(1,), solver=Heun(), grid=Karras(steps=6), cond=COND).x)
    bad.asked.clear()
    for idle in (Autoguidance(scale=1.0, bad=bad), Autoguidance(scale=3.0, bad=bad, above=1e6)):
        assert torch.equal(run(idle).x, plain.x)
        assert run(idle).nfe == 11
    assert not bad.asked
    assert [Autoguidance(scale=scale, bad=bad).most_evaluations for scale in (0, 1, 2)] == [1, 1, 2]


def test_it_sharpens_where_the_bad_model_is_blurred(mixture: Callable[[PathPart], ExactMixture]) -> None:
    good, bad, labels = mixture(EDM()), Worse(mixture(EDM())), Conditions.of(label=torch.ones(400, dtype=torch.int64))

    def spread(scale: float) -> float:
        made = sample(
            good,
            400,
            shape=(1,),
            solver=DPMSolverPP(),
            grid=Karras(steps=12, sigma_max=20),
            guidance=Autoguidance(scale=scale, bad=bad),
            cond=labels,
            batch=400,
        )
        return made.x.std().item()

    assert spread(0.0) == pytest.approx(1.0, abs=0.12)
    assert spread(1.0) == pytest.approx(0.5, abs=0.06)
    assert spread(2.0) < 0.8 * spread(1.0)


def test_a_folder_and_the_model_in_hand_are_the_same(tmp_path: Path) -> None:
    good, bad = _model(0), _model(1)
    bad.save_pretrained(tmp_path / "bad")
    named = parse(Autoguidance, {"scale": 2.0, "bad": str(tmp_path / "bad")})
    assert parse(Autoguidance, named.dump()) == named

    def run(guidance: GuidancePart) -> Samples:
        cond = Conditions.of(label=torch.arange(4))
        return sample(good, 4, solver=DDIM(), guidance=guidance, cond=cond, batch=2)

    by_name, in_hand = run(named), run(Autoguidance(scale=2.0, bad=bad))
    assert torch.equal(by_name.x, in_hand.x)
    assert not torch.equal(by_name.x, run(Autoguidance(bad=bad)).x)
    assert by_name.nfe == in_hand.nfe == 40


def test_what_does_not_go_together_is_refused(mixture: Callable[[PathPart], ExactMixture], tmp_path: Path) -> None:
    good = _model(0)

    def refused(message: str, guidance: GuidancePart) -> None:
        with pytest.raises(UsageError, match=message):
            sample(good, 1, guidance=guidance, cond=Conditions.of(label=torch.tensor([3])))

    refused(r"path EDM\(.*\), the good one on VP\(.*both on one", Autoguidance(scale=2, bad=mixture(EDM())))
    refused("training mode.*call its eval", Autoguidance(scale=2, bad=_model(1).train()))
    refused(r"shape \(5,\), the good one of \(3,\)", Autoguidance(scale=2, bad=_model(1, shape=(5,))))
    refused("labels run from 3 to 3, but the model knows 0 to 1", Autoguidance(scale=2, bad=_model(1, classes=2)))
    refused("nothing. does not exist", Autoguidance(scale=2, bad=str(tmp_path / "nothing")))
    with pytest.raises(UsageError, match="weights 'ema' is a choice among a folder's, but bad is a model"):
        parse(Autoguidance, {"bad": good, "weights": "ema"})
