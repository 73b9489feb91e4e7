import math

import pytest
import torch

from suffuse.base.errors import UsageError
from suffuse.metrics import cubic, gaussian, kernel_distance, median_distance, mmd2


def _normal(n, d, seed, shift=0.0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


def _by_loops(x, y, kernel):
    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize(
    ("kernel", "scalar"),
    [
        (cubic, lambda a, b: (float(a @ b) / 4 + 1) ** 3),
        (gaussian(1.5), lambda a, b: math.exp(-float((a - b).square().sum()) / 4.5)),
    ],
)
def test_matches_a_double_loop(kernel, scalar):
    x, y = _normal(7, 4, 0), _normal(5, 4, 1, 0.5)
    assert mmd2(x, y, kernel) == pytest.approx(_by_loops(x, y, scalar), rel=1e-10)


@pytest.mark.parametrize("kernel", [cubic, gaussian(3.0)])
def test_unbiased_halves_of_one_distribution_average_to_zero(kernel):
    values = torch.tensor([mmd2(_normal(20, 8, 2 * i), _normal(20, 8, 2 * i + 1), kernel) for i in range(200)])
    # A biased estimate would be off by about 2 / 20 of the kernel's diagonal, dozens of these errors.
    assert abs(float(values.mean())) < 3 * float(values.std()) / 200**0.5
    assert (values < 0).any()


def test_grows_with_the_shift_and_is_seeded():
    x = _normal(500, 8, 0)
    near, far = (kernel_distance(x, _normal(500, 8, 1, shift), seed=0, size=100, subsets=20) for shift in (0.2, 1.0))
    assert far.value - 3 * far.error > near.value > 0
    assert kernel_distance(x, _normal(500, 8, 1, 0.2), seed=0, size=100, subsets=20) == near
    assert near.repeats == 20


def test_the_error_is_that_of_new_samples_not_of_new_subsets():
    found = [
        kernel_distance(_normal(200, 4, 2 * i), _normal(200, 4, 2 * i + 1, 0.5), seed=0, size=100, subsets=20)
        for i in range(40)
    ]
    deviation = float(torch.tensor([one.value for one in found]).std())
    # 40 repeats know their deviation to 11 %, each error its own to 16 %; the naive error would be a fifth.
    assert sum(one.error for one in found) / 40 == pytest.approx(deviation, rel=0.4)


def test_the_median_distance_of_a_gaussian():
    # |x - y|**2 / 2 is chi-squared with 50 degrees of freedom, whose median is 49.33.
    assert median_distance(_normal(2000, 50, 0), seed=0) == pytest.approx(math.sqrt(2 * 49.33), rel=0.02)


def test_bad_requests_are_named():
    with pytest.raises(UsageError, match=r"the first set has 10 points; at least 1001"):
        kernel_distance(torch.zeros(10, 2), torch.zeros(10, 2), seed=0)
    with pytest.raises(UsageError, match="width 2 and the second set has width 3"):
        kernel_distance(torch.zeros(10, 2), torch.zeros(10, 3), seed=0, size=5)
    with pytest.raises(UsageError, match="subsets is 1; both must be at least 2"):
        kernel_distance(torch.zeros(10, 2), torch.zeros(10, 2), seed=0, size=5, subsets=1)
    with pytest.raises(UsageError, match="scale is 0"):
        gaussian(0.0)
