"""Classifier-free guidance: one formula whatever the prediction, absent at scale 1, and only where it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.part import parse
from suffuse.base.randomness import Draws
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, VP, Flow, PathPart, Prediction, PredictionPart, TrigonometricPath
from suffuse.sampling import CFG, DPMSolverPP, Estimate, Karras, sample

LABELS = torch.tensor([0, 1, 2, 2, 1])
COND = Conditions.of(label=LABELS)
X = 2 * Draws(0, torch.arange(5)).normal("start", (1,)).double()


class Recorder:
    """A model's `denoise` as guidances see it, which notes its calls."""

    def __init__(self, model: ExactMixture) -> None:
        self.model = model
        self.calls: list[tuple[int, bool | None, Call]] = []

    def __call__(self, x: Tensor, t: float, cond: Conditions | None, call: Call) -> Estimate:
        present = cond.present["label"] if cond else None
        self.calls.append((len(x), bool(present.any()) if present is not None else None, call))
        return Estimate(self.model.denoise(x, t, cond, call))


def _direct(model: ExactMixture, t: float, scale: float) -> Tensor:
    """D_u + scale (D_c - D_u) from the densities: D_c of one Gaussian, D_u the mean over components given x."""
    level = model.path.level(t)
    total = (level.alpha * model.stds) ** 2 + level.sigma**2
    noisy = torch.distributions.Normal(level.alpha * model.means[:, 0], total.sqrt())
    each = model.means[:, 0] + level.alpha * model.stds**2 / total * (X - level.alpha * model.means[:, 0])
    share = (noisy.log_prob(X).exp() * model.weights).double()
    uncond = (share * each).sum(1, keepdim=True) / share.sum(1, keepdim=True)
    return uncond + scale * (each.gather(1, LABELS[:, None]) - uncond)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.4, 1.0, 3.5])
@pytest.mark.parametrize("together", [True, False])
def test_formula_on_an_exact_density(
    path: PathPart, scale: float, together: bool, mixture: Callable[[PathPart], ExactMixture]
) -> None:
    model = mixture(path)
    t = path.t_of(torch.tensor(-0.3, dtype=torch.float64)).item()
    guided = CFG(scale=scale, together=together).bind(Recorder(model), path)
    found = guided(X, t, COND, Call(step=1)).x0
    torch.testing.assert_close(found, _direct(model, t, scale), rtol=1e-10, atol=1e-10)


def test_scale_one_is_the_plain_model(mixture: Callable[[PathPart], ExactMixture]) -> None:
    recorder = Recorder(mixture(EDM()))
    call = Call(step=3, steps=9)
    guided = CFG(scale=1.0).bind(recorder, EDM())(X, 0.7, COND, call)
    assert torch.equal(guided.x0, recorder.model.denoise(X, 0.7, COND))
    assert recorder.calls == [(5, True, call)], "one call, exactly as it came"


def test_scale_zero_is_unconditional(mixture: Callable[[PathPart], ExactMixture]) -> None:
    recorder = Recorder(mixture(EDM()))
    guided = CFG(scale=0.0).bind(recorder, EDM())(X, 0.7, COND, Call())
    assert torch.equal(guided.x0, recorder.model.denoise(X, 0.7))
    assert recorder.calls == [(5, False, Call(streams=("uncond",)))]


def test_halves_together_and_apart(mixture: Callable[[PathPart], ExactMixture]) -> None:
    recorders = {together: Recorder(mixture(EDM())) for together in (True, False)}
    call = Call(step=2, seeds=torch.arange(5))
    made = {
        together: CFG(scale=2.5, together=together).bind(recorder, EDM())(X, 0.7, COND, call).x0
        for together, recorder in recorders.items()
    }
    assert torch.equal(made[True], made[False])
    (rows, _, both), *more = recorders[True].calls
    assert (rows, more, both.streams, both.step) == (10, [], ("uncond", "cond"), 2)
    assert torch.equal(both.seeds, torch.arange(5).repeat(2)), "a sample's halves share its randomness"
    assert [(rows, present, call.streams) for rows, present, call in recorders[False].calls] == [
        (5, False, ("uncond",)),
        (5, True, ("cond",)),
    ]


@pytest.mark.parametrize("prediction", get_args(Prediction)[1].parts.values(), ids=lambda p: p.__name__)
def test_guiding_outputs_is_guiding_estimates(
    prediction: type[PredictionPart], path: PathPart, mixture: Callable[[PathPart], ExactMixture]
) -> None:
    model = mixture(path)
    t = path.t_of(torch.tensor(0.4, dtype=torch.float64)).item()
    level = path.level(t)
    guided = CFG(scale=4.0).bind(Recorder(model), path)(X, t, COND, Call()).x0
    c_skip, c_out = prediction().output(level.alpha, level.sigma, 0.5)
    uncond, given = ((model.denoise(X, t, cond) - c_skip * X) / c_out for cond in (None, COND))
    in_output_space = c_skip * X + c_out * (uncond + 4.0 * (given - uncond))
    torch.testing.assert_close(guided, in_output_space, rtol=1e-10, atol=1e-10)


def test_interval_is_open_below_and_closed_above(mixture: Callable[[PathPart], ExactMixture]) -> None:
    steer = CFG(scale=3.0, above=0.5, up_to=2.0)
    for path in (EDM(), VP(), Flow(), TrigonometricPath()):
        for rho, inside in ((0.49, False), (0.51, True), (1.99, True), (2.01, False)):
            recorder = Recorder(mixture(path))
            t = path.t_of(-torch.tensor(rho, dtype=torch.float64).log()).item()
            found = steer.bind(recorder, path)(X, t, COND, Call()).x0
            assert recorder.calls[0][0] == (10 if inside else 5)
            expected = CFG(scale=3.0) if inside else CFG()
            assert torch.equal(found, expected.bind(recorder, path)(X, t, COND, Call()).x0)
    for sigma, rows in ((0.5, 5), (2.0, 10)):
        recorder = Recorder(mixture(EDM()))
        steer.bind(recorder, EDM())(X, sigma, COND, Call())
        assert recorder.calls[0][0] == rows


def test_samples_without_a_condition_are_unconditional(mixture: Callable[[PathPart], ExactMixture]) -> None:
    model = mixture(EDM())
    some = COND.drop(torch.tensor([False, True, False, False, True]))
    guided = CFG(scale=3.0).bind(Recorder(model), EDM())(X, 0.7, some, Call()).x0
    plain, whole = model.denoise(X, 0.7), CFG(scale=3.0).bind(Recorder(model), EDM())(X, 0.7, COND, Call()).x0
    assert torch.equal(guided[[1, 4]], plain[[1, 4]])
    assert torch.equal(guided[[0, 2, 3]], whole[[0, 2, 3]])
    with pytest.raises(UsageError, match="scale 3 needs conditions"):
        CFG(scale=3.0).bind(Recorder(model), EDM())(X, 0.7, None, Call())


def test_guided_samples_are_of_their_class(mixture: Callable[[PathPart], ExactMixture]) -> None:
    model, labels = mixture(EDM()), torch.arange(3).repeat(200)

    def run(scale: float) -> Tensor:
        return sample(
            model,
            600,
            shape=(1,),
            solver=DPMSolverPP(),
            grid=Karras(steps=20, sigma_max=20),
            guidance=CFG(scale=scale),
            cond=Conditions.of(label=labels),
            batch=600,
        ).x.double()

    plain = run(1.0)
    for mean, std, label in zip(model.means[:, 0].tolist(), model.stds.tolist(), range(3), strict=True):
        # Scale 1 draws from the class itself: its mean within four standard errors, and a little of the solver's.
        assert plain[labels == label].mean() == pytest.approx(mean, abs=4 * std / 200**0.5 + 0.02)
    # Scale 3 pushes the outer classes away from the middle; scale 0 forgets the class.
    pushed, free = run(3.0), run(0.0)
    assert pushed[labels == 0].mean() < plain[labels == 0].mean() - 0.05
    assert pushed[labels == 2].mean() > plain[labels == 2].mean() + 0.05
    assert abs(free[labels == 0].mean() - free[labels == 2].mean()) < 5 * free.std() * (2 / 200) ** 0.5


def test_an_empty_interval_is_refused() -> None:
    with pytest.raises(UsageError, match=r"above 2.0 is not below up_to 1.0; swap them or widen the interval"):
        parse(CFG, {"scale": 2, "above": 2, "up_to": 1})
    with pytest.raises(UsageError, match=r"CFG: above: .* greater than or equal to 0 \(got -1\)"):
        parse(CFG, {"above": -1})
