"""Paths: coefficients, derivatives and inverses, against autograd, fifty digits, sums of betas and diffusers."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from suffuse.base.errors import UsageError
from suffuse.base.part import Part, parse
from suffuse.process import EDM, VP, Flow, PathPart, TrigonometricPath, perturb

Times = Callable[..., Tensor]
ROUNDING = 1e-12  # float64 keeps 16 digits; sums of a thousand terms and condition numbers cost up to four


def at(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("name", ["alpha", "sigma", "half_log_snr"])
def test_derivatives_are_those_of_autograd(path: PathPart, name: str, times: Times) -> None:
    t = times(path).requires_grad_()
    (slope,) = torch.autograd.grad(getattr(path, name)(t).sum() + 0 * t.sum(), t)
    assert_close(getattr(path, f"d_{name}")(t).detach(), slope, rtol=1e-9, atol=1e-12)


def test_derivatives_are_those_of_differences(path: PathPart, times: Times) -> None:
    # The error of central differences is h**2 f'''/6 plus 1e-16 f/h: about 1e-9 at this h.
    t = times(path)
    h = 1e-6 * (t - path.t_clean)
    for function, slope in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        difference = (function(t + h) - function(t - h)) / (2 * h)
        assert_close(slope(t) * (t - path.t_clean), difference * (t - path.t_clean), rtol=1e-7, atol=1e-8)


def test_t_of_inverts_half_log_snr(path: PathPart, times: Times) -> None:
    t = times(path)
    assert_close(path.t_of(path.half_log_snr(t)) - path.t_clean, t - path.t_clean, rtol=1e-10, atol=0)


def test_half_log_snr_inverts_t_of(path: PathPart, times: Times) -> None:
    high, low = path.half_log_snr(times(path)[[0, -1]]).tolist()
    half_log_snr = torch.linspace(high, low, 77, dtype=torch.float64)
    assert_close(path.half_log_snr(path.t_of(half_log_snr)), half_log_snr, rtol=1e-10, atol=1e-10)


def test_t_of_keeps_its_digits_at_both_ends(zero_snr: PathPart) -> None:
    # Beyond -10 torch's softplus has switched to its asymptote, which is 1e-9 off.
    half_log_snr = torch.tensor([-10.5, -10.1, 6.0], dtype=torch.float64)
    assert_close(zero_snr.half_log_snr(zero_snr.t_of(half_log_snr)), half_log_snr, rtol=0, atol=1e-10)
    ends = torch.tensor([math.inf, -math.inf], dtype=torch.float64)
    assert zero_snr.t_of(ends).tolist() == [zero_snr.t_clean, zero_snr.t_max]


def test_half_log_snr_falls(path: PathPart) -> None:
    t = torch.linspace(path.t_min, path.t_max, 5001, dtype=torch.float64)
    assert (path.half_log_snr(t).diff() < 0).all()


def test_half_log_snr_is_the_log_of_the_ratio(path: PathPart, times: Times) -> None:
    t = times(path)
    assert_close(path.half_log_snr(t), (path.alpha(t) / path.sigma(t)).log(), rtol=ROUNDING, atol=ROUNDING)


def test_steps_compose(path: PathPart, times: Times) -> None:
    # q(x_t | x_s) has variance sigma_t**2 - alpha_ts**2 sigma_s**2; it chains over any time between.
    s, u, t = times(path)[[5, 17, 30]] if len(times(path)) > 30 else times(path)[[1, 3, 5]]

    def variance(a: Tensor, b: Tensor) -> Tensor:
        return -(path.sigma(b) ** 2) * torch.expm1(2 * (path.half_log_snr(b) - path.half_log_snr(a)))

    ratio = path.alpha(t) / path.alpha(u)
    plain = path.sigma(t) ** 2 - (path.alpha(t) / path.alpha(s)) ** 2 * path.sigma(s) ** 2
    assert_close(variance(s, t), plain, rtol=ROUNDING, atol=ROUNDING)
    assert_close(variance(s, t), variance(u, t) + ratio**2 * variance(s, u), rtol=ROUNDING, atol=ROUNDING)


def test_variance_is_preserved(vp: PathPart, times: Times) -> None:
    t = times(vp)
    assert_close(vp.alpha(t) ** 2 + vp.sigma(t) ** 2, torch.ones_like(t), rtol=0, atol=ROUNDING)


def test_clean_data_are_clean(path: PathPart) -> None:
    clean = at(path.t_clean)
    assert path.alpha(clean).item() == 1
    assert math.copysign(1, path.sigma(clean).item()) == 1, (
        "minus zero would flip the sign of whatever is divided by it"
    )
    assert path.sigma(clean).item() == 0
    assert path.half_log_snr(clean).item() == math.inf


def linear(t: mpmath.mpf) -> mpmath.mpf:
    return mpmath.exp(-(t / 10 + mpmath.mpf("19.9") * t**2 / 2) / 2)


def cosine(t: mpmath.mpf) -> mpmath.mpf:
    s = mpmath.mpf(0.008)
    return mpmath.cos(mpmath.pi / 2 * (t + s) / (1 + s)) / mpmath.cos(mpmath.pi / 2 * s / (1 + s))


def first_beta(t: mpmath.mpf) -> mpmath.mpf:
    return (1 - mpmath.mpf(1e-4)) ** ((t + 1) / 2)


@pytest.mark.parametrize("distance", [1e-12, 1e-9, 1e-6, 1e-3, 0.3])
@pytest.mark.parametrize(
    ("known", "alpha"),
    [
        (VP(), linear),
        (VP(schedule="cosine"), cosine),
        (VP(schedule="plain_cosine"), lambda t: mpmath.cos(mpmath.pi * t / 2)),
        (VP(steps=1000), first_beta),
    ],
    ids=["linear", "cosine", "plain_cosine", "table"],
)
def test_sigma_keeps_its_digits_near_clean_data(
    known: PathPart, alpha: Callable[[mpmath.mpf], mpmath.mpf], distance: float
) -> None:
    t = at(known.t_clean) + distance
    with mpmath.workdps(50):
        exact = alpha(mpmath.mpf(t.item()))
        sigma = mpmath.sqrt(1 - exact**2)
        expected = float(sigma), float(mpmath.log(exact / sigma))
    assert known.sigma(t).item() == pytest.approx(expected[0], rel=ROUNDING)
    assert known.half_log_snr(t).item() == pytest.approx(expected[1], abs=1e-11)


@pytest.mark.parametrize("distance", [1e-9, 1e-6, 1e-3, 0.3])
@pytest.mark.parametrize(
    ("schedule", "alpha"), [("cosine", cosine), ("plain_cosine", lambda t: mpmath.cos(mpmath.pi * t / 2))]
)
def test_cosines_keep_their_digits_near_noise(
    schedule: str, alpha: Callable[[mpmath.mpf], mpmath.mpf], distance: float
) -> None:
    t = at(1 - distance)
    with mpmath.workdps(50):
        expected = float(alpha(mpmath.mpf(t.item())))
    assert parse(VP, {"schedule": schedule}).alpha(t).item() == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize("schedule", ["cosine", "plain_cosine"])
def test_cosines_end_in_pure_noise(schedule: str) -> None:
    path = parse(VP, {"schedule": schedule})
    assert (path.alpha(at(1.0)).item(), path.sigma(at(1.0)).item()) == (0, 1)
    assert path.half_log_snr(at(1.0)).item() == -math.inf


@pytest.mark.parametrize("size", [1, 3, 8, 17])
def test_zero_terminal_snr_is_exact(zero_snr: PathPart, size: int) -> None:
    # In any size of tensor: vector and scalar code of the processor may round differently.
    end = torch.full((size,), zero_snr.t_max, dtype=torch.float64)
    assert (zero_snr.alpha(end) == 0).all()
    assert (zero_snr.sigma(end) == 1).all()
    assert (zero_snr.half_log_snr(end) == -math.inf).all()
    before = zero_snr.t_max - 1e-7 * (zero_snr.t_max - zero_snr.t_clean)
    assert_close(zero_snr.d_alpha(end), zero_snr.d_alpha(torch.full_like(end, before)), rtol=1e-6, atol=0)
    assert (zero_snr.d_sigma(end) == 0).all()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "plain_cosine"])
def test_zero_terminal_snr_ends_wherever_the_path_ends(schedule: str) -> None:
    for end in torch.linspace(0.05, 1, 96, dtype=torch.float64).tolist():
        path = parse(VP, {"schedule": schedule, "t_end": end, "zero_terminal_snr": True})
        assert path.alpha(torch.full((5,), end, dtype=torch.float64)).tolist() == [0.0] * 5


def betas_of(table: PathPart) -> Tensor:
    """The published definitions, in float64."""
    plain = table.dump()
    steps, (low, high) = table.indices or 0, {"linear": (1e-4, 0.02)}.get(plain["schedule"], (0.00085, 0.012))
    if plain["schedule"] == "linear":
        return torch.linspace(low, high, steps, dtype=torch.float64)
    if plain["schedule"] == "scaled_linear":
        return torch.linspace(low**0.5, high**0.5, steps, dtype=torch.float64) ** 2
    if plain["schedule"] == "betas":
        return torch.tensor(plain["betas"], dtype=torch.float64)
    s = 0.008 if plain["schedule"] == "cosine" else 0.0
    bars = [math.cos((i / steps + s) / (1 + s) * math.pi / 2) ** 2 for i in range(steps + 1)]
    betas = [min(1 - after / before, 0.999) for before, after in itertools.pairwise(bars)]
    return torch.tensor(betas, dtype=torch.float64)


def rescaled(bars: Tensor) -> Tensor:
    """Shift the square roots so that the last is 0, then scale so that the first is kept."""
    root = bars.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def test_tables_are_exact_at_their_indices(table: PathPart) -> None:
    bars = (1 - betas_of(table)).cumprod(0)
    if table.dump()["zero_terminal_snr"]:
        bars = rescaled(bars)
    straight = table.dump()["straight_below"]
    index = torch.arange(table.indices or 0, dtype=torch.float64)
    if straight is not None:
        index, bars = index[index >= straight], bars[index >= straight]
    # A thousand rounding errors of 1e-16; rescaling divides by the last steps' differences of 1e-3.
    assert_close(table.alpha(index) ** 2, bars, rtol=1e-10, atol=ROUNDING)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (VP(steps=1000), {"beta_schedule": "linear"}),
        (
            VP(schedule="scaled_linear", steps=1000),
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
        (VP(schedule="cosine", steps=1000), {"beta_schedule": "squaredcos_cap_v2"}),
        (VP(schedule="linear", steps=200, beta_min=1e-3, beta_max=0.05), {"beta_start": 1e-3, "beta_end": 0.05}),
    ],
    ids=["linear", "scaled", "cosine", "limits"],
)
@pytest.mark.parametrize("zero", [False, True])
def test_tables_are_those_of_diffusers(ours: VP, theirs: dict[str, object], zero: bool) -> None:
    from diffusers import DDPMScheduler

    steps = ours.indices or 0
    scheduler = DDPMScheduler(num_train_timesteps=steps, rescale_betas_zero_snr=zero, **theirs)
    # diffusers computes in float32; its rescaling divides by small differences.
    tolerance = 1e-5 if zero else 1e-6
    bars = ours.replace(zero_terminal_snr=zero).alpha(torch.arange(steps, dtype=torch.float64)) ** 2
    assert_close(bars, scheduler.alphas_cumprod.double(), rtol=0, atol=tolerance)


def test_noisy_samples_are_those_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, 4, 4, generator=generator)
    t = torch.tensor([0, 10, 300, 700, 999])
    theirs = DDPMScheduler(1000).add_noise(x0, eps, t)  # type: ignore[no-untyped-call]  # diffusers is not typed here
    assert_close(perturb(VP(steps=1000), x0, eps, t.double()), theirs, rtol=0, atol=1e-5)


def test_tables_are_continuous_across_indices(table: PathPart) -> None:
    index = torch.arange(-1, table.indices or 0, dtype=torch.float64)[1:-1]
    for function in (table.alpha, table.sigma, table.half_log_snr):
        assert_close(function(index - 1e-9), function(index + 1e-9), rtol=1e-5, atol=1e-6)
        assert_close(function(index - 1e-9), function(index), rtol=1e-5, atol=1e-6)


def test_level_of_a_float_is_that_of_a_tensor(path: PathPart, times: Times) -> None:
    t, like = times(path)[:3], torch.zeros(3, 2, 4, dtype=torch.float64)
    many = path.level(t, like)
    for i, time in enumerate(t.tolist()):
        one = path.level(time)
        for name in ("alpha", "sigma", "half_log_snr"):
            value = getattr(many, name)
            assert value.shape == (3, 1, 1)
            assert getattr(one, name) == pytest.approx(value[i].item(), rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_level_is_computed_in_float64_and_follows_the_samples(path: PathPart, dtype: torch.dtype, times: Times) -> None:
    t = times(path).float()
    level = path.level(t, torch.zeros(len(t), 2, dtype=dtype))
    for name in ("alpha", "sigma", "half_log_snr"):
        # To the last bit: arithmetic in float32 would be off by one of them somewhere.
        assert torch.equal(getattr(level, name)[:, 0], getattr(path, name)(t.double()).to(dtype))


def test_level_per_sample_needs_the_samples() -> None:
    with pytest.raises(TypeError, match="needs `like`, the samples to be multiplied"):
        VP().level(torch.zeros(3))  # type: ignore[call-overload]  # the point of the test


def test_perturb_keeps_the_dtype_and_mixes_per_sample() -> None:
    x0, eps, t = torch.ones(3, 2, 2), -torch.ones(3, 2, 2), torch.tensor([0.0, 0.25, 1.0])
    x = perturb(Flow(), x0, eps, t)
    assert x.dtype == torch.float32
    assert x[:, 0, 0].tolist() == [1.0, 0.5, -1.0]


def test_told_unit_is_that_of_the_path_wherever_it_ends() -> None:
    for path in (VP(t_end=0.9), Flow(t_end=0.9), TrigonometricPath(t_end=1.4)):
        assert path.told_scale == type(path)().told_scale, "ending a path earlier must not change what times mean"
    assert VP(steps=50).told_scale == 1
    assert EDM().told_scale is None


def test_rich_paths_survive_json(path: PathPart) -> None:
    again = parse(type(path), json.loads(json.dumps(path.dump())))
    assert again == path
    assert hash(again) == hash(path)


@pytest.mark.parametrize(
    ("part", "data", "message"),
    [
        (VP, {"schedule": "scaled_linear"}, "scaled_linear is a table; set `steps` (Stable Diffusion uses 1000)"),
        (VP, {"schedule": "betas"}, "schedule 'betas' and the field `betas` belong together"),
        (VP, {"betas": (0.1, 0.2)}, "schedule 'betas' and the field `betas` belong together"),
        (VP, {"schedule": "betas", "betas": (0.1, 1.2)}, "two or more values inside (0, 1); wrong: [1.2]"),
        (VP, {"schedule": "betas", "betas": (0.0, 0.2)}, "wrong: [0.0]"),
        (VP, {"schedule": "betas", "betas": (0.1,)}, "two or more values"),
        (VP, {"schedule": "betas", "betas": (0.1, 0.2), "steps": 2}, "`steps` is the length of `betas`; leave it out"),
        (VP, {"schedule": "cosine", "beta_min": 0.1}, "schedule 'cosine' has no beta_min and beta_max"),
        (VP, {"beta_min": 20, "beta_max": 1}, "beta_min 20.0 is not below beta_max 1.0; swap them or widen the range"),
        (VP, {"steps": 10, "beta_max": 1}, "beta_max 1.0 of a table must be below 1"),
        (VP, {"steps": 10, "t_end": 0.9}, "a table runs over its indices; leave t_start and t_end out"),
        (VP, {"steps": 1}, "steps: Input should be greater than or equal to 2 (got 1)"),
        (VP, {"schedule": "linaer"}, "(got 'linaer')"),
        (VP, {"t_start": 0.5, "t_end": 0.4}, "t_start 0.5 is not below t_end 0.4"),
        (Flow, {"t_start": 0.5, "t_end": 0.4}, "t_start 0.5 is not below t_end 0.4"),
        (TrigonometricPath, {"t_start": 1.5, "t_end": 1}, "t_start 1.5 is not below t_end 1.0"),
        (TrigonometricPath, {"sigma_data": 0}, "sigma_data: Input should be greater than 0"),
        (EDM, {"sigma_min": 80}, "sigma_min 80.0 is not below sigma_max 80.0"),
    ],
)
def test_impossible_paths_are_refused(part: type[Part], data: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(part, data)
    assert message in str(caught.value)


@pytest.mark.parametrize("straight", [VP(straight_below=0.1), VP(steps=1000, straight_below=100)])
def test_a_straightened_sigma_rises_in_a_line_and_then_as_before(straight: VP) -> None:
    path = straight
    below, plain = path.straight_below or 0, path.replace(straight_below=None)
    t = torch.linspace(path.t_clean, below, 9, dtype=torch.float64)[:-1]
    assert_close(path.d_sigma(t[1:]), path.d_sigma(t[1:2]).expand(7), rtol=1e-9, atol=0)
    assert_close(path.sigma(t[:1]), torch.zeros(1, dtype=torch.float64))
    later = torch.linspace(below, path.t_max, 9, dtype=torch.float64)
    assert torch.equal(path.alpha(later), plain.alpha(later))
    with pytest.raises(UsageError, match="straight_below"):
        path.replace(straight_below=path.t_max)
