import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.datasets import load_digits

from suffuse.base.errors import RunError, UsageError
from suffuse.metrics import Moments, frechet, frechet_floor, frechet_infinity


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _samples(n, d, seed, scale=1.0, shift=0.0):
    mix = torch.randn(d, d, dtype=torch.float64, generator=_generator(seed + 100))
    return scale * torch.randn(n, d, dtype=torch.float64, generator=_generator(seed)) @ mix + shift


def _exactly(mean, covariance):
    """Moments that have these values whatever n."""
    return Moments(11, torch.as_tensor(mean).double(), 10 * torch.as_tensor(covariance).double())


def test_commuting_covariances_have_a_closed_form():
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=_generator(0)))[0]
    s, r = torch.arange(1.0, 7.0).double(), torch.tensor([3.0, 0.5, 2.0, 9.0, 0.0, 1.0]).double()
    m = torch.linspace(-1, 2, 6).double()
    a = _exactly(torch.zeros(6), turn @ torch.diag(s**2) @ turn.T)
    b = _exactly(m, turn @ torch.diag(r**2) @ turn.T)
    # One root of a zero eigenvalue costs half the digits: sqrt(1e-15).
    assert frechet(a, b) == pytest.approx(float(m.square().sum() + (s - r).square().sum()), rel=1e-7)


@pytest.mark.parametrize("d", [3, 20, 64])
def test_agrees_with_a_general_matrix_root(d):
    a, b = Moments.of(_samples(300, d, 0)), Moments.of(_samples(200, d, 1, scale=2.0, shift=0.3))
    first, second = a.covariance.numpy(), b.covariance.numpy()
    root = scipy.linalg.sqrtm(first @ second).real
    expected = ((a.mean - b.mean) ** 2).sum().item() + np.trace(first + second - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)


def test_covariance_is_numpys():
    x = _samples(50, 4, 0)
    np.testing.assert_allclose(Moments.of(x).covariance.numpy(), np.cov(x.numpy(), rowvar=False), rtol=1e-12)


def test_fewer_samples_than_dimensions():
    x, y = _samples(10, 80, 0), _samples(15, 80, 1)
    # The cross term is the nuclear norm of the product of the centred samples: no root of a singular matrix is needed.
    centred = ((x - x.mean(0)) / 3, (y - y.mean(0)) / 14**0.5)
    cross = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    traces = centred[0].square().sum() + centred[1].square().sum()
    expected = float((x.mean(0) - y.mean(0)).square().sum() + traces - 2 * cross)
    # Seventy null eigenvalues of about 1e-16 times the largest each add their root, 1e-8.
    assert frechet(Moments.of(x), Moments.of(y)) == pytest.approx(expected, rel=1e-6)


def test_zero_on_itself_symmetric_positive_and_blind_to_rotations():
    x, y = _samples(100, 12, 0), _samples(100, 12, 1)
    a, b = Moments.of(x), Moments.of(y)
    turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=_generator(5)))[0]
    assert 0 <= frechet(a, a) < 1e-10 * float(a.covariance.trace())
    assert frechet(a, b) > 0
    assert frechet(b, a) == pytest.approx(frechet(a, b), rel=1e-10)
    assert frechet(Moments.of(x @ turn), Moments.of(y @ turn)) == pytest.approx(frechet(a, b), rel=1e-10)
    assert frechet(Moments.of(3 * x), Moments.of(3 * y)) == pytest.approx(9 * frechet(a, b), rel=1e-10)


def test_streamed_moments_are_those_of_the_whole_even_far_from_zero():
    x = _samples(1000, 5, 0, shift=1e6)  # sums of squares would lose 12 digits to the mean's square
    whole = Moments.of(x)
    streamed = Moments.over(x.split([1, 7, 500, 492]))
    assert streamed.n == 1000
    torch.testing.assert_close(streamed.mean, whole.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(whole.covariance, Moments.of(x - 1e6).covariance, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(streamed.covariance, whole.covariance, rtol=1e-8, atol=1e-8)


def test_large_sets_are_cut_into_rows_of_float64():
    x = torch.randn(20_000, 3, generator=_generator(0))
    torch.testing.assert_close(Moments.of(x).covariance, torch.cov(x.double().T), rtol=1e-10, atol=1e-12)


def test_halves_of_the_digits_differ_by_the_bias_alone():
    digits = load_digits().data / 8 - 1
    noise = torch.rand(1797, 64, generator=_generator(0)) * 2 - 1
    floor = frechet_floor(digits, seed=0)
    assert floor == frechet_floor(digits, seed=0) != frechet_floor(digits, seed=1)
    # In pixels (variance 18.8 in all) two halves are at 0.19 and uniform noise at 27.
    assert 0.1 < floor < 0.3
    assert frechet(Moments.of(digits), Moments.of(noise)) > 50 * floor


def test_extrapolation_removes_the_bias_of_few_samples():
    reference = _exactly(torch.zeros(10), torch.eye(10))
    drawn = [torch.randn(2000, 10, generator=_generator(seed)) for seed in range(8)]
    plain = sum(frechet(Moments.of(samples), reference) for samples in drawn) / 8
    # Of N samples of the same Gaussian the bias is (D + D (D + 1) / 4) / N = 0.0188 to first order; the truth is 0.
    assert plain == pytest.approx(0.0188, rel=0.25)
    assert abs(sum(frechet_infinity(samples, reference, seed=0) for samples in drawn) / 8) < plain / 3


def test_bad_moments_are_refused():
    good = _exactly(torch.zeros(2), torch.eye(2))
    with pytest.raises(UsageError, match="widths 2 and 3"):
        frechet(good, _exactly(torch.zeros(3), torch.eye(3)))
    with pytest.raises(UsageError, match="at least 2 samples, not 1"):
        frechet(good, Moments.of(torch.zeros(1, 2)))
    with pytest.raises(RunError, match="negative beyond round-off"):
        frechet(_exactly(torch.zeros(2), torch.diag(torch.tensor([1.0, -1e-3]))), good)
    with pytest.raises(RunError, match="NaN or infinity in 1 of 3"):
        Moments.of(torch.tensor([[0.0], [torch.inf], [1.0]]))
    with pytest.raises(UsageError, match="holds no batch"):
        Moments.over([])
    with pytest.raises(UsageError, match="at least 4"):
        frechet_floor(torch.zeros(3, 2), seed=0)
