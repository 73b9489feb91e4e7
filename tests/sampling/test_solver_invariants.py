"""What holds for solvers exactly: equal forms of a step, data that are one point, the same step on every path."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, VP, Flow, PathPart, TrigonometricPath, eps_of
from suffuse.sampling import DDIM, DDPM, DPMSolverPP, Estimate, Euler, Heun, Solver, SolverPart, transfer
from suffuse.sampling.solvers import OnGrid, stochastic_transfer

# Float64 rounding, through coefficients whose ratios reach a few hundred.
EXACT = 1e-12
# Half log-SNRs that every path has, unevenly spaced.
NODES = torch.tensor([-2.5, -1.9, -0.8, -0.5, 0.6, 1.1, 2.3], dtype=torch.float64)


def _start(batch: int = 6) -> Tensor:
    return Draws(1, torch.arange(batch)).normal("start", (1,)).double()


def _in_time(solver: SolverPart) -> bool:
    """Whether the solver integrates over the path's own time, so that its steps depend on that time."""
    return solver.dump().get("variable") == "time"


def test_data_form_noise_form_and_ddim_are_one_step(path: PathPart) -> None:
    times = path.t_of(NODES).tolist()
    x0, eps = _start(), Draws(2, torch.arange(6)).normal("start", (1,)).double()
    for t, s in itertools.pairwise(times):
        here, there = path.level(t), path.level(s)
        x = here.alpha * x0 + here.sigma * eps
        h = there.half_log_snr - here.half_log_snr
        noise_form = there.alpha / here.alpha * x - there.sigma * math.expm1(h) * eps
        data_form = there.sigma / here.sigma * x - there.alpha * math.expm1(-h) * x0
        expected = there.alpha * x0 + there.sigma * eps
        for form in (transfer(x, x0, here, there), noise_form, data_form):
            torch.testing.assert_close(form, expected, rtol=EXACT, atol=EXACT)


def test_kept_and_fresh_noise_make_the_whole(path: PathPart) -> None:
    here, there = path.level(path.t_of(NODES[1]).item()), path.level(path.t_of(NODES[2]).item())
    for eta in (0.0, 0.3, 1.0):
        # With x0 = 0 and unit eps the mean is the factor of the kept noise.
        x = torch.full((1,), here.sigma, dtype=torch.float64)
        mean, std = stochastic_transfer(Estimate(torch.zeros_like(x)), x, here, there, eta)
        assert float(mean) ** 2 + float(std) ** 2 == pytest.approx(there.sigma**2, rel=EXACT)
        assert float(std) == pytest.approx(eta * there.sigma * math.sqrt(-math.expm1(-2 * 1.1)), rel=EXACT)


def test_first_order_solvers_are_ddim(
    path: PathPart, mixture: Callable[[PathPart], ExactMixture], integrate: Callable[..., Tensor]
) -> None:
    model, times = mixture(path), path.t_of(NODES).tolist()
    expected = integrate(DDIM(), model, _start(), times)
    others = [Euler(), DPMSolverPP(order=1), *([Euler(variable="time")] if path in (Flow(), EDM()) else [])]
    for other in others:
        torch.testing.assert_close(integrate(other, model, _start(), times), expected, rtol=EXACT, atol=EXACT)
    ancestral = integrate(DDPM(), model, _start(), times)
    assert torch.equal(ancestral, integrate(DDIM(eta=1.0), model, _start(), times))
    assert not torch.allclose(ancestral, expected, atol=1e-2)


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_a_single_point_is_reached_exactly(
    in_log_snr: SolverPart, path: PathPart, steps: int, integrate: Callable[..., Tensor]
) -> None:
    _assert_lands(in_log_snr, path, steps, integrate)


@pytest.mark.parametrize("straight", [Flow(), EDM()], ids=["flow", "edm"])
def test_straight_paths_are_followed_exactly_in_time(
    in_time: SolverPart, straight: PathPart, integrate: Callable[..., Tensor]
) -> None:
    _assert_lands(in_time, straight, 3, integrate)


def _assert_lands(solver: SolverPart, path: PathPart, steps: int, integrate: Callable[..., Tensor]) -> None:
    """Data that are one point: clean data are that point, and the implied noise is kept by deterministic solvers."""
    model = ExactMixture(path, torch.ones(1), torch.full((1, 1), 0.3, dtype=torch.float64), torch.zeros(1))
    times, x = path.t_of(NODES).tolist(), _start()
    arrived = integrate(solver, model, x, [*times[: steps + 1], path.t_clean])
    torch.testing.assert_close(arrived, torch.full_like(x, 0.3), rtol=0, atol=1e-10)
    if not solver.stochastic:
        here, there = path.level(times[0]), path.level(times[steps])
        eps = eps_of(x, torch.full_like(x, 0.3), here)
        landed = integrate(solver, model, x, times[: steps + 1])
        torch.testing.assert_close(landed, there.alpha * 0.3 + there.sigma * eps, rtol=0, atol=1e-10)


def test_paths_differ_by_a_scale_only(
    in_log_snr: SolverPart, mixture: Callable[[PathPart], ExactMixture], integrate: Callable[..., Tensor]
) -> None:
    ends = []
    for path in (EDM(), VP(), VP(steps=1000), Flow(), TrigonometricPath()):
        times = path.t_of(NODES).tolist()
        first, last = path.level(times[0]), path.level(times[-1])
        ends.append(integrate(in_log_snr, mixture(path), first.alpha * 10 * _start(), times) / last.alpha)
    for other in ends[1:]:
        same = torch.allclose(other, ends[0], rtol=1e-10, atol=1e-10)
        # The forward step's variance is the one thing that is a matter of the path.
        assert same == (in_log_snr != DDPM(variance="large"))


def test_only_the_heun_variant_is_exact_for_a_linear_estimate(path: PathPart) -> None:
    levels = [path.level(t) for t in path.t_of(NODES[1:4]).tolist()]
    lams = [float(level.half_log_snr) for level in levels]
    x, draws = _start(), Draws(0, torch.arange(6))
    # x0 = 0.4 + 0.3 lambda: y = x / sigma gains the integral of exp(lambda) x0, exp(lambda) (0.1 + 0.3 lambda).
    after, before = (math.exp(lam) * (0.1 + 0.3 * lam) for lam in (lams[2], lams[1]))
    expected = levels[2].sigma * (x / levels[1].sigma + after - before)

    def error(variant: str) -> float:
        solver = DPMSolverPP(variant=variant)
        state = solver.init(x, [level.t for level in levels], path)

        def denoise(x: Tensor, t: float, substep: int = 0, target: float | None = None) -> Estimate:
            return Estimate(torch.full_like(x, 0.4 + 0.3 * float(path.level(t).half_log_snr)))

        _, state = solver.step(denoise, x, state, 0, draws)
        return (solver.step(denoise, x, state, 1, draws)[0] - expected).abs().max().item()

    assert error("heun") < EXACT
    assert error("midpoint") > 1e-4


@pytest.mark.parametrize(
    "noise_path",
    [VP(steps=1000, zero_terminal_snr=True), VP(zero_terminal_snr=True), Flow(), TrigonometricPath()],
    ids=["zero-snr-table", "zero-snr", "flow", "trigonometric"],
)
def test_solvers_start_from_pure_noise_or_say_why_not(
    solver: SolverPart,
    noise_path: PathPart,
    gaussian: Callable[[PathPart], ExactMixture],
    moments: Callable[..., tuple[float, float]],
) -> None:
    top, bottom = noise_path.t_max, noise_path.t_clean
    times = torch.linspace(top, bottom, 101, dtype=torch.float64).tolist()
    assert abs(noise_path.level(top).alpha) < 1e-15
    if solver.kind in {"euler", "heun", "midpoint", "rk4"} and not _in_time(solver):
        with pytest.raises(UsageError, match=r"infinite .* solver ddim"):
            solver.init(_start(), times, noise_path)
        return
    mean, variance = moments(solver, gaussian(noise_path), times, 0.0, 1.0)
    # A solver in time makes an error in the mean; the others have X0 at the mean from the first step on.
    assert mean == pytest.approx(0.7, abs=0.02 if _in_time(solver) else 1e-12)
    # Order 1 at 100 steps, most of it in the few steps nearest to clean data.
    assert variance == pytest.approx(0.16, rel=0.25)


def test_second_order_from_pure_noise_is_accurate(
    gaussian: Callable[[PathPart], ExactMixture], moments: Callable[..., tuple[float, float]]
) -> None:
    path = VP(steps=1000, zero_terminal_snr=True)
    times = torch.linspace(path.t_max, -1, 101, dtype=torch.float64).tolist()
    first = abs(moments(DDIM(), gaussian(path), times, 0.0, 1.0)[1] / 0.16 - 1)
    second = abs(moments(DPMSolverPP(), gaussian(path), times, 0.0, 1.0)[1] / 0.16 - 1)
    assert second < 0.2 * first
    assert second < 0.01


def test_a_solver_remembers_nothing_itself(
    solver: SolverPart, mixture: Callable[[PathPart], ExactMixture], integrate: Callable[..., Tensor]
) -> None:
    model, noise = mixture(EDM()), Draws(0, torch.arange(6))
    times = EDM().t_of(NODES).tolist()

    def denoise(x: Tensor, t: float, substep: int = 0, target: float | None = None) -> Estimate:
        return Estimate(model.denoise(x, t))

    starts = [8 * _start(), 5 * _start() + 1]
    alone = [integrate(solver, model, x, times) for x in starts]
    xs, states = [x.clone() for x in starts], [solver.init(x, times, EDM()) for x in starts]
    for i in range(len(times) - 1):
        for k in range(2):
            untouched = xs[k].clone()
            x, states[k] = solver.step(denoise, xs[k], states[k], i, noise.at(i))
            assert torch.equal(xs[k], untouched), "the input was changed in place"
            xs[k] = x
    assert torch.equal(torch.stack(xs), torch.stack(alone))


class _NoDraws(Draws):
    def normal(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        raise AssertionError("a deterministic solver drew noise")


def test_deterministic_solvers_draw_nothing(
    deterministic: SolverPart, mixture: Callable[[PathPart], ExactMixture], integrate: Callable[..., Tensor]
) -> None:
    times = [*EDM().t_of(NODES).tolist(), 0.0]
    x = integrate(deterministic, mixture(EDM()), _start().float(), times, _NoDraws(0, torch.arange(6)))
    assert x.dtype == torch.float32


def test_evaluations_are_what_is_declared(
    solver: SolverPart, mixture: Callable[[PathPart], ExactMixture], integrate: Callable[..., Tensor]
) -> None:
    model, seen = mixture(EDM()), []
    plain = model.denoise
    model.denoise = lambda x, t: (seen.append(t), plain(x, t))[1]  # type: ignore[method-assign]  # a counter
    for steps, end in itertools.product((1, 2, 5), (0.0, EDM().t_min)):
        seen.clear()
        integrate(solver, model, _start(), [*EDM().t_of(NODES).tolist()[:steps], end])
        assert len(seen) == solver.evaluations(steps, to_clean=end == 0)


def test_solvers_survive_json(solver: SolverPart) -> None:
    again = TypeAdapter(Solver).validate_python(json.loads(json.dumps(solver.dump())))
    assert again == solver
    assert type(again) is type(solver)


def test_steps_for_is_the_most_that_fits(solver: SolverPart) -> None:
    for to_clean in (True, False):
        for budget in range(solver.evaluations(1, to_clean=to_clean), 20):
            steps = solver.steps_for(budget, to_clean=to_clean)
            cost, more = (solver.evaluations(n, to_clean=to_clean) for n in (steps, steps + 1))
            assert cost <= budget < more
    with pytest.raises(UsageError, match=rf"solver '{solver.kind}' cannot do a step in 0 evaluations; raise nfe"):
        solver.steps_for(0)


def test_a_noise_of_its_own_replaces_the_implied_one(path: PathPart) -> None:
    levels = tuple(path.level(t) for t in path.t_of(NODES[2:4]).tolist())
    x0, other = _start(), Draws(3, torch.arange(6)).normal("start", (1,)).double()
    step, _ = DDIM().step(
        lambda x, t, substep=0, target=None: Estimate(x0, other), x0, OnGrid(path, levels), 0, Draws(0, torch.arange(6))
    )
    torch.testing.assert_close(step, levels[1].alpha * x0 + levels[1].sigma * other, rtol=EXACT, atol=EXACT)


def test_lowering_the_final_step_makes_it_first_order(
    mixture: Callable[[PathPart], ExactMixture], integrate: Callable[..., Tensor]
) -> None:
    model, times = mixture(EDM()), EDM().t_of(NODES).tolist()
    second = DPMSolverPP()
    lowered = integrate(second.replace(lower_final=True), model, _start(), times)
    until = integrate(second, model, _start(), times[:-1])
    torch.testing.assert_close(lowered, integrate(DDIM(), model, until, times[-2:]), rtol=EXACT, atol=EXACT)
    long = torch.linspace(5, 0.1, 16, dtype=torch.float64).tolist()
    assert torch.equal(
        integrate(second.replace(lower_final=True), model, _start(), long), integrate(second, model, _start(), long)
    ), "15 steps and more are not lowered"


def test_churn_keeps_the_noise_level_it_promises() -> None:
    # The estimate 0 makes the Heun step a pure rescaling by rho_s / rho^, so that what is left is the churned sample.
    path, batch = EDM(), 20000
    solver = Heun(churn=1.0, churn_noise=1.1)
    state = solver.init(torch.zeros(batch, 1), [2.0, 1.0], path)
    x, _ = solver.step(
        lambda x, t, substep=0, target=None: Estimate(torch.zeros_like(x)),
        torch.zeros(batch, 1).double(),
        state,
        0,
        Draws(0, torch.arange(batch)),
    )
    raised = 2 * math.sqrt(2)  # gamma is capped at sqrt(2) - 1
    expected = 1.1 * math.sqrt(raised**2 - 2**2) / raised
    assert x.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * batch))
    assert state.churned[0].t == pytest.approx(raised)
    assert Heun(churn=1.0, churn_from=3.0).init(torch.zeros(1, 1), [2.0, 1.0], path).churned[0].t == 2.0
    assert Heun(churn=1.0, churn_to=1.5).init(torch.zeros(1, 1), [2.0, 1.0], path).churned[0].t == 2.0
    assert solver.init(torch.zeros(1, 1), [2.0, 1.5, 1.2, 1.1, 1.0], path).churned[1].t == pytest.approx(1.5 * 1.25)


def test_refusals_name_the_mend() -> None:
    x = torch.zeros(1, 1)
    with pytest.raises(UsageError, match=r"'euler' in variable 'sigma' .* infinite .* path 'flow'; use solver"):
        Euler().init(x, [1.0, 0.0], Flow())
    with pytest.raises(UsageError, match=r"'heun' in variable 'time' meets an infinite velocity on path 'vp'; use"):
        Heun(variable="time").init(x, [0.5, 0.0, -0.1], VP())
    with pytest.raises(UsageError, match=r"churn raises .* from 152.\d* to 21\d.*path 'vp'; set solver.churn_to"):
        Heun(churn=4.0).init(x, [1.0, 0.5], VP())
    with pytest.raises(ValueError, match=r"churn adds noise in sigma; use variable: sigma, or churn: 0"):
        Heun(churn=1.0, variable="time")
