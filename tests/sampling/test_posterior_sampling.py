"""Posterior sampling: samples that agree with what was measured, and only where something was measured."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from suffuse.base.call import Call
from suffuse.base.conditions import Conditions
from suffuse.base.errors import UsageError
from suffuse.base.randomness import Draws
from suffuse.models.exact import ExactMixture
from suffuse.process import EDM, VP, PathPart
from suffuse.sampling import (
    CFG,
    DDIM,
    DDPM,
    DPS,
    BlockMean,
    DPMSolver,
    DPMSolverPP,
    Estimate,
    GaussianBlur,
    Heun,
    Inpainting,
    Karras,
    ListedTimes,
    MeasurementPart,
    Samples,
    Solver,
    SolverPart,
    Uniform,
    sample,
)

SIDE = 4
IMAGES = Draws(5, torch.arange(3)).normal("start", (1, SIDE, SIDE)).double()
EVERY = [Inpainting(box=(1, 1, 2, 3)), Inpainting(), BlockMean(factor=2), GaussianBlur(std=0.8)]


class Pictures:
    """Images (1, 4, 4) of a mixture whose components are IMAGES; it minds being told what was measured."""

    estimate = "mean"

    def __init__(self, path: PathPart, std: float, count: int = 3) -> None:
        weights = torch.full((count,), 1 / count, dtype=torch.float64)
        self.flat = ExactMixture(
            path, weights, IMAGES[:count].flatten(1), torch.full((count,), std, dtype=torch.float64)
        )
        self.path, self.device = path, self.flat.device

    def denoise(self, x: Tensor, t: float | Tensor, cond: Conditions | None = None, call: Call | None = None) -> Tensor:
        assert not cond or "measurement" not in cond.values
        return self.flat.denoise(x.flatten(1), t, cond).view(x.shape)


def _measured(part: MeasurementPart, image: Tensor, n: int) -> Conditions:
    return Conditions.of(measurement=part.of(image[None].expand(n, -1, -1, -1)))


def _matrix(part: MeasurementPart) -> Tensor:
    """A of flat images, column by column."""
    return part.of(torch.eye(SIDE * SIDE, dtype=torch.float64).view(-1, 1, SIDE, SIDE)).flatten(1).T


def _run(model: Any, guidance: Any, cond: Conditions, n: int = 6, **changes: Any) -> Samples:
    plain = {"shape": (1, SIDE, SIDE), "solver": DDIM(), "grid": Uniform(steps=20), "dtype": torch.float64}
    return sample(model, n, guidance=guidance, cond=cond, **(plain | changes))


@pytest.mark.parametrize("part", EVERY, ids=repr)
def test_measurements_are_linear_and_leave_their_input_alone(part: MeasurementPart) -> None:
    a, b = IMAGES[:2, None, 0], IMAGES[1:, None, 0]
    before = a.clone()
    torch.testing.assert_close(part.of(2 * a - 3 * b), 2 * part.of(a) - 3 * part.of(b), rtol=1e-12, atol=1e-12)
    assert torch.equal(a, before)
    assert part.of(a.float()).dtype == torch.float32


def test_what_is_measured() -> None:
    x = IMAGES.clone()
    hidden = Inpainting(box=(1, 1, 2, 3)).of(x)
    assert (hidden[:, :, 1:3, 1:4] == 0).all()
    assert torch.equal(hidden[:, :, 0], x[:, :, 0])
    assert torch.equal(Inpainting().of(x), x)
    assert torch.equal(BlockMean(factor=2).of(x)[:, :, 1, 0], x[:, :, 2:, :2].mean((2, 3)))
    wide = torch.zeros(1, 2, 15, 15, dtype=torch.float64)
    wide[0, 1, 7, 7] = 1
    seen, offsets = GaussianBlur(std=1.2).of(wide), torch.arange(15.0) - 7
    across = torch.exp(-0.5 * (offsets / 1.2) ** 2) * (offsets.abs() <= 4)
    torch.testing.assert_close(seen[0, 1].float(), (across / across.sum()).outer(across / across.sum()))
    assert (seen[0, 0] == 0).all(), "channels stay apart"
    torch.testing.assert_close(GaussianBlur(std=1.2).of(torch.ones_like(wide)), torch.ones_like(wide))


@pytest.mark.parametrize("part", EVERY, ids=repr)
def test_the_shift_is_zeta_times_the_gradient_of_the_square_over_the_norm(part: MeasurementPart) -> None:
    model, times = Pictures(VP(), 0.6, count=1), (0.7, 0.4, 0.0)
    x, y = Draws(1, torch.arange(2)).normal("start", (1, SIDE, SIDE)).double(), part.of(IMAGES[1:])
    guided = DPS(zeta=0.3, measurement=part).bind(lambda *given: Estimate(model.denoise(*given)), VP())
    found = guided(x, 0.4, Conditions.of(measurement=y), Call(step=1, steps=2, times=times))
    level = VP().level(0.4)
    rate = level.alpha * 0.6**2 / ((level.alpha * 0.6) ** 2 + level.sigma**2)  # of D in x
    gap = (part.of(model.denoise(x, 0.4)) - y).flatten(1)
    expected = -0.3 * 2 * rate * (gap @ _matrix(part)) / gap.norm(dim=1, keepdim=True)
    assert found.shift is not None
    torch.testing.assert_close(found.shift.flatten(1), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(found.x0, model.denoise(x, 0.4))
    assert found.backward == 1


def test_on_every_path_it_is_that_of_the_variance_preserving_one(path: PathPart) -> None:
    y, lambdas = _measured(BlockMean(factor=2), IMAGES[1], 3), torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)

    def run(path: PathPart) -> Tensor:
        grid = ListedTimes(listed=tuple(path.t_of(lambdas).tolist()))
        return _run(Pictures(path, 0.4), DPS(zeta=1.0, measurement=BlockMean(factor=2)), y, 3, grid=grid).x

    torch.testing.assert_close(run(path), run(VP()), rtol=1e-9, atol=1e-9)


def test_scale_zero_is_none_bit_for_bit_and_asks_for_nothing() -> None:
    model = Pictures(VP(), 0.3)
    plain, idle = (_run(model, guidance, Conditions()) for guidance in (None, DPS(zeta=0.0, measurement=Inpainting())))
    assert torch.equal(plain.x, idle.x)
    assert (idle.nfe, idle.backward) == (20, 0)
    y = _measured(Inpainting(), IMAGES[0], 6)
    assert torch.equal(_run(model, DPS(zeta=0.0, measurement=Inpainting()), y).x, plain.x)


# A blur hides what is fine almost wholly, and the gradient goes there as slowly: its mean is approached, not reached.
@pytest.mark.parametrize(
    ("part", "left"),
    [(Inpainting(), 0.1), (EVERY[0], 0.25), (BlockMean(factor=2), 0.25), (GaussianBlur(std=0.8), 0.8)],
    ids=repr,
)
def test_samples_move_to_the_posterior_mean(part: MeasurementPart, left: float) -> None:
    """One Gaussian and a linear A without noise: the posterior mean is m + A^T (A A^T)^-1 (y - A m)."""
    model, n, truth = Pictures(VP(), 0.5, count=1), 64, IMAGES[0] + 0.5 * IMAGES[1]
    y, gap = part.of(truth[None]), (part.of(truth[None]) - part.of(IMAGES[:1])).flatten()
    mean = IMAGES[0].flatten() + torch.linalg.pinv(_matrix(part)) @ gap
    how = {"grid": Uniform(steps=100), "solver": DDPM()}
    made = _run(model, DPS(zeta=0.2, measurement=part), _measured(part, truth, n), n, **how).x
    free = _run(model, None, Conditions(), n, **how).x

    def off(x: Tensor) -> float:
        return (x.flatten(1).mean(0) - mean).norm().item()

    def miss(x: Tensor) -> float:
        return (part.of(x) - y).flatten(1).norm(dim=1).mean().item()

    assert off(made) < left * off(free)
    assert miss(made) < 0.25 * miss(free)
    if part == Inpainting():  # as the page says: samples end about zeta from what was measured
        assert miss(made) == pytest.approx(0.2, rel=0.2)


def test_known_pixels_are_kept_and_hidden_ones_follow_the_density() -> None:
    part, n = Inpainting(box=(2, 0, 2, 4)), 12
    for which in range(3):
        cond = _measured(part, IMAGES[which], n)
        made = _run(Pictures(VP(), 0.1), DPS(zeta=0.3, measurement=part), cond, n, grid=Uniform(steps=40)).x
        assert (made - IMAGES[which])[:, :, :2].square().mean().sqrt() < 0.12
        nearest = (made[:, None] - IMAGES).flatten(2).norm(dim=2).argmin(1)
        assert (nearest == which).all(), "what is hidden is of the picture that the rest belongs to"
    # One Gaussian's pixels say nothing of each other.
    alone = Pictures(VP(), 0.5, count=1)
    made, free = _run(alone, DPS(measurement=part), cond, n).x, _run(alone, None, Conditions(), n).x
    torch.testing.assert_close(made[:, :, 2:], free[:, :, 2:], rtol=0, atol=1e-12)


def test_nan_was_not_measured_and_samples_without_a_measurement_are_left_alone() -> None:
    model, y = Pictures(VP(), 0.3), IMAGES[:1].expand(6, -1, -1, -1).clone()
    boxed = _run(model, DPS(measurement=Inpainting(box=(0, 0, 1, 3))), _measured(Inpainting(), IMAGES[0], 6))
    y[:, :, :1, :3] = math.nan
    marked = _run(model, DPS(measurement=Inpainting()), Conditions.of(measurement=y))
    # A box that is hidden is measured as 0: it gives no gradient, but it counts in the norm.
    assert not torch.equal(boxed.x, marked.x)
    zeroed = _run(model, DPS(measurement=Inpainting(box=(0, 0, 1, 3))), Conditions.of(measurement=y.nan_to_num(0.0)))
    torch.testing.assert_close(marked.x, zeroed.x, rtol=0, atol=1e-12)
    some = torch.tensor([False, True, False, True, True, False])
    mixed = _run(model, DPS(measurement=Inpainting()), Conditions.of(measurement=y).drop(some)).x
    torch.testing.assert_close(mixed[~some], marked.x[~some], rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed[some], _run(model, None, Conditions()).x[some], rtol=0, atol=1e-12)


def test_measurements_go_with_their_samples_through_batches() -> None:
    y = Conditions.of(measurement=IMAGES.repeat(2, 1, 1, 1), label=torch.arange(3).repeat(2))
    part = DPS(measurement=BlockMean(factor=2), inner=CFG(scale=1.5))
    cond = Conditions.of(measurement=part.measurement.of(y.values["measurement"]), label=y.values["label"])
    whole, parts = (_run(Pictures(VP(), 0.3), part, cond, batch=batch) for batch in (6, 4))
    torch.testing.assert_close(whole.x, parts.x, rtol=0, atol=1e-12)
    assert (whole.nfe, whole.backward) == (40, 40)


@pytest.mark.parametrize("how", [Heun(), DPMSolver(order=3), DDPM()], ids=repr)
def test_one_gradient_a_step_whatever_its_evaluations(how: SolverPart) -> None:
    y, grid = _measured(Inpainting(), IMAGES[0], 6), Karras(steps=6)
    part = DPS(zeta=1.0, measurement=Inpainting())
    made, free = (
        _run(Pictures(EDM(), 0.4), guidance, cond, grid=grid, solver=how)
        for guidance, cond in ((part, y), (None, Conditions()))
    )
    assert (made.nfe, made.backward) == (free.nfe, 6)
    assert (made.x - IMAGES[0]).square().mean() < 0.5 * (free.x - IMAGES[0]).square().mean()


def test_solvers_that_remember_are_refused() -> None:
    y, part = _measured(Inpainting(), IMAGES[0], 6), DPS(measurement=Inpainting())
    kinds = {kind for kind, solver in get_args(Solver)[1].parts.items() if not solver.shiftable}
    assert kinds == {"dpmpp", "unipc", "deis", "plms", "sa", "adaptive", "consistency", "map_steps"}
    with pytest.raises(UsageError, match=r"'dps' moves samples between steps.*solver 'dpmpp'.*use one whose steps"):
        _run(Pictures(VP(), 0.3), part, y, solver=DPMSolverPP())


def test_mistakes_are_told() -> None:
    model, part = Pictures(VP(), 0.3), DPS(measurement=BlockMean(factor=2))
    with pytest.raises(UsageError, match=r"needs what was measured.*condition 'measurement', or set zeta to 0"):
        _run(model, part, Conditions())
    with pytest.raises(UsageError, match=r"shape \(6, 1, 4, 4\), but 'block_mean' of these samples has \(6, 1, 2, 2\)"):
        _run(model, part, _measured(Inpainting(), IMAGES[0], 6))
    with pytest.raises(UsageError, match="factor 3 does not divide images of 4 x 4"):
        BlockMean(factor=3).of(IMAGES)
    with pytest.raises(UsageError, match=r"std 2 reaches 6 pixels.*make it smaller"):
        GaussianBlur(std=2.0).of(IMAGES)
    with pytest.raises(UsageError, match=r"box \(2, 2, 3, 1\) does not lie within images of 4 x 4"):
        Inpainting(box=(2, 2, 3, 1)).of(IMAGES)
    with pytest.raises(UsageError, match=r"'gaussian_blur' is of images.*shape \(3,\)"):
        GaussianBlur().of(torch.zeros(2, 3))


def test_what_is_led_away_from_stays_when_the_measurement_is_taken_out() -> None:
    cond = Conditions.of(label=torch.zeros(2, dtype=torch.int64), measurement=torch.zeros(2, 1))
    negative = Conditions.of(label=torch.ones(2, dtype=torch.int64))
    plain = DPS(measurement=BlockMean(factor=2)).plain(cond.against(negative))
    assert plain is not None
    assert set(plain.values) == {"label"}
    assert plain.absent().values["label"].tolist() == [1, 1]
