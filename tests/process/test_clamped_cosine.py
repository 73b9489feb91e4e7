"""Wuerstchen's path, noise levels, weights and corruption, against its published scheduler and closed forms."""

from __future__ import annotations

import pytest
import torch

from suffuse.base.randomness import keys
from suffuse.process import P2, BoundedSNR, ClampedCosine, UniformTimes
from suffuse.process.corruption import Corruption

PATH = ClampedCosine()


def test_it_is_the_published_schedule() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMWuerstchenScheduler()
    t = torch.linspace(0, 1, 201)
    theirs = scheduler._alpha_cumprod(t, "cpu")
    ours = PATH.alpha(t.double()).square()
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-6)
    shown = PATH.alpha(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)).square()
    wanted = torch.tensor([0.97209, 0.78691, 0.49384, 0.20312, 0.02409], dtype=torch.float64)
    torch.testing.assert_close(shown, wanted, rtol=0, atol=5e-6)


def test_its_ends_are_cut_off_and_clean_data_are_below_zero() -> None:
    ends = torch.tensor([PATH.t_clean, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(PATH.sigma(ends).square(), torch.tensor([0.0, 1e-4, 1 - 1e-4], dtype=torch.float64))
    assert PATH.alpha(ends)[0] == 1
    t = torch.linspace(PATH.t_clean, 1, 500, dtype=torch.float64)
    assert (PATH.sigma(t).diff() >= 0).all()
    inside = torch.linspace(0.02, 0.98, 50, dtype=torch.float64)
    torch.testing.assert_close(PATH.t_of(PATH.half_log_snr(inside)), inside)
    assert PATH.t_of(torch.tensor([-9.0, 12.0], dtype=torch.float64)).tolist()[0] == 1


def test_its_derivatives_are_those_of_its_coefficients() -> None:
    t = torch.linspace(0.02, 0.98, 30, dtype=torch.float64, requires_grad=True)
    for value, slope in ((PATH.alpha(t), PATH.d_alpha(t)), (PATH.sigma(t), PATH.d_sigma(t))):
        (found,) = torch.autograd.grad(value.sum(), t)
        torch.testing.assert_close(found, slope.detach())


def test_levels_beyond_the_end_are_at_the_end() -> None:
    levels = UniformTimes(beyond=0.08)
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    t = levels.quantile(u, PATH)
    assert (t == 1).double().mean() == pytest.approx(0.08 / 1.08, abs=1e-3)
    torch.testing.assert_close(levels.cdf(t, PATH)[t < 1], u[t < 1])
    assert levels.cdf(torch.ones(1, dtype=torch.float64), PATH) == 1
    assert torch.equal(UniformTimes().quantile(u, PATH), UniformTimes(beyond=0.0).quantile(u, PATH))


def test_the_two_weights_of_the_paper_and_its_code() -> None:
    """On the eps loss (1 - a) / (1 + a), and sigma**2 in the code, which is p2; |D - x0|**2 has the SNR more."""
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    lam, a = PATH.half_log_snr(t), PATH.alpha(t).square()
    snr = a / (1 - a)
    torch.testing.assert_close(BoundedSNR().of(lam, lam) / snr, (1 - a) / (1 + a))
    torch.testing.assert_close(P2().of(lam, lam) / snr, 1 - a)


def test_corruption_leaves_out_and_diffuses_the_shares_that_it_says() -> None:
    x = torch.randn(20_000, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    seeds = keys(0, "test", 0, torch.arange(len(x)))
    changed, share = Corruption().of(x, seeds)
    dropped = (changed == 0).all(1).flatten()
    noisy = share > 0
    assert dropped.double().mean().item() == pytest.approx(0.05, abs=0.005)
    assert (noisy & ~dropped).double().mean().item() == pytest.approx(0.285, abs=0.01)
    assert share.max() <= 0.5
    assert torch.equal(changed[~noisy & ~dropped], x[~noisy & ~dropped])
    assert changed[noisy & ~dropped].std().item() == pytest.approx(1, abs=0.02)
    again, _ = Corruption().of(x[100:107], seeds[100:107])
    assert torch.equal(again, changed[100:107]), "the same in any batch"


def test_corruption_that_does_nothing_is_the_identity() -> None:
    x = torch.randn(64, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    seeds = keys(0, "test", 0, torch.arange(len(x)))
    for nothing in (Corruption(drop=0, noise=0), Corruption(drop=0, noise=1, up_to=0)):
        assert torch.equal(nothing.of(x, seeds)[0], x)
