"""Keyed randomness: a draw depends on its key and element alone, and the numbers behave like random ones.

All draws are fixed by their seeds, so the statistical bounds either hold for good or reveal a change; they are set at
about one in a thousand for true random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from suffuse.base import randomness
from suffuse.base.randomness import Draws, keep_mask, keys, normal, permutation, uniform

KOLMOGOROV = 1.95  # sqrt(n) times the Kolmogorov distance, one in a thousand


def some_keys(count: int, *, seed: int = 0, stream: str = "test", step: int = 0) -> Tensor:
    return keys(seed, stream, step, torch.arange(count))


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": lambda key: uniform(key, 37),
    "normal": lambda key: normal(key, (3, 5, 5)),
    "keep_mask": lambda key: keep_mask(key, (3, 5, 5), 0.3),
}
every_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))


def test_bits_are_those_of_splitmix64() -> None:
    # The generator's first outputs from state 0, as its authors' reference code prints them.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [bits % 2**64 for bits in randomness._bits(torch.zeros(1, dtype=torch.int64), 3)[0].tolist()] == published


@every_draw
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33])
def test_a_sample_is_the_same_in_any_batch(draw: Callable[[Tensor], Tensor], size: int) -> None:
    whole = some_keys(66)
    together = draw(whole)
    apart = torch.cat([draw(part) for part in whole.split(size)])
    assert torch.equal(together, apart), "vector and scalar code of the processor must give the same bits"
    assert torch.equal(together[::3], draw(whole[::3]))


@every_draw
def test_seed_stream_step_and_index_all_matter(draw: Callable[[Tensor], Tensor]) -> None:
    index = torch.arange(4)
    base = draw(keys(1, "noise", 2, index))
    assert torch.equal(base, draw(keys(1, "noise", 2, index)))
    for other in (keys(2, "noise", 2, index), keys(1, "times", 2, index), keys(1, "noise", 3, index)):
        assert not torch.equal(base, draw(other))
    assert not torch.equal(base, draw(keys(1, "noise", 2, index + 4)))


def test_keys_do_not_collide() -> None:
    # The seed and the step must not run into each other: (1, 23) and (12, 3) are different places.
    drawn = [keys(seed, "s", step, torch.arange(5000)) for seed, step in ((1, 23), (12, 3), (1, 2), (12, 2), (-1, 2))]
    assert len(torch.cat(drawn).unique()) == 25_000


def test_uniform_is_uniform() -> None:
    drawn = uniform(some_keys(400), 250).flatten()
    n = len(drawn)
    assert stats.kstest(drawn.numpy(), "uniform").statistic * math.sqrt(n) < KOLMOGOROV
    # First and second moment, within 3.3 standard errors of 1/2 and 1/12 (the square's variance is 1/180).
    assert abs(drawn.mean() - 0.5) < 3.3 * math.sqrt(1 / 12 / n)
    assert abs(((drawn - 0.5) ** 2).mean() - 1 / 12) < 3.3 * math.sqrt(1 / 180 / n)


def test_uniform_never_reaches_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for bits in (0, -1):  # all zeros and all ones: the least and the largest number
        monkeypatch.setattr(randomness, "_bits", lambda key, count, bits=bits: torch.full((len(key), count), bits))
        assert 0 < uniform(some_keys(1)).item() < 1


def test_normal_is_normal() -> None:
    drawn = normal(some_keys(300), (7, 48)).flatten().double()
    n = len(drawn)
    assert stats.kstest(drawn.numpy(), "norm").statistic * math.sqrt(n) < KOLMOGOROV
    # Moments 1 to 4 of a unit normal, within 3.3 standard errors; E x^6 = 15, E x^8 = 105 give the errors.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((drawn**power).mean() - moment) < 3.3 * math.sqrt(variance / n), f"moment {power}"


def test_normal_is_bounded_and_finite_whatever_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    for bits in (0, -1, 2**32 - 1, -(2**32)):
        monkeypatch.setattr(randomness, "_bits", lambda key, count, bits=bits: torch.full((len(key), count), bits))
        drawn = normal(some_keys(1), (4,))
        assert drawn.isfinite().all()
        assert drawn.abs().max() <= 6.8


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_odd_and_even_counts(count: int) -> None:
    drawn = normal(some_keys(2000), (count,))
    assert drawn.shape == (2000, count)
    # Box-Muller makes pairs (i, i + n/2); neither the pairs nor their squares may be correlated.
    for i in range(count):
        for j in range(i):
            assert abs(correlation(drawn[:, i], drawn[:, j])) < 3.3 / math.sqrt(2000)
            assert abs(correlation(drawn[:, i] ** 2, drawn[:, j] ** 2)) < 3.3 / math.sqrt(2000)


def test_neighbours_are_uncorrelated() -> None:
    drawn = normal(some_keys(400), (400,))
    bound = 3.3 / math.sqrt(drawn.numel())
    assert abs(correlation(drawn[1:], drawn[:-1])) < bound, "neighbouring keys"
    assert abs(correlation(drawn[:, 1:], drawn[:, :-1])) < bound, "neighbouring elements"
    for other in ({"stream": "other"}, {"step": 1}, {"seed": 1}):
        assert abs(correlation(drawn, normal(some_keys(400, **other), (400,)))) < bound, other  # type: ignore[arg-type]


def test_no_hidden_direction() -> None:
    # Largest singular value of a random matrix: sqrt(m) + sqrt(n) (Marchenko-Pastur); structure would stick out.
    largest = torch.linalg.matrix_norm(normal(some_keys(400), (400,)), ord=2)
    assert abs(largest / 40 - 1) < 0.02


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_keep_mask_keeps_the_share(drop: float) -> None:
    mask = keep_mask(some_keys(200), (50, 10), drop).double()
    assert abs(mask.mean() - (1 - drop)) < 3.3 * math.sqrt(drop * (1 - drop) / mask.numel())


def test_keep_mask_at_its_ends_is_exact() -> None:
    assert keep_mask(some_keys(100), (100,), 0.0).all()
    assert not keep_mask(some_keys(100), (100,), 1.0).any()


def test_masks_are_nested() -> None:
    key = some_keys(20)
    assert not (keep_mask(key, (50,), 0.6) & ~keep_mask(key, (50,), 0.2)).any(), "more dropping drops the same and more"


def test_permutation() -> None:
    first = permutation(0, "order", 0, 1000)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert torch.equal(first, permutation(0, "order", 0, 1000))
    fixed = [(first == permutation(0, "order", epoch, 1000)).sum() for epoch in range(1, 6)]
    assert max(fixed) < 8, "two random orders agree at about one place"
    assert abs(stats.spearmanr(first.numpy(), range(1000)).statistic) < 3.3 / math.sqrt(1000)


def test_draws_of_ranks_make_the_whole() -> None:
    whole = Draws(3, torch.arange(10), step=4, total=10)
    ranks = [Draws(3, torch.arange(10)[rank::2], step=4, total=10) for rank in range(2)]
    for rank, part in enumerate(ranks):
        assert torch.equal(whole.normal("noise", (2, 3))[rank::2], part.normal("noise", (2, 3)))
        assert torch.equal(whole.uniform("times")[rank::2], part.uniform("times"))
        assert torch.equal(whole.keys("dropout")[rank::2], part.keys("dropout"))
        assert part.shared_uniform("times") == whole.shared_uniform("times")


def test_draws_are_records() -> None:
    draws = Draws(3, torch.arange(10), step=4, total=10)
    assert len(draws[2:5]) == 3
    assert torch.equal(draws[2:5].normal("noise", (4,)), draws.normal("noise", (4,))[2:5])
    assert torch.equal(draws.at(7).uniform("times"), Draws(3, torch.arange(10), step=7).uniform("times"))
    assert not torch.equal(draws.at(5).uniform("times"), draws.uniform("times"))
    assert torch.equal(draws.to(torch.device("cpu")).keys("a"), draws.keys("a"))
    assert torch.equal(draws.uniform("times", 3)[:, 0], draws.uniform("times"))


def test_shared_uniform_changes_with_step_and_stream_alone() -> None:
    draws = Draws(0, torch.arange(3))
    shared = [draws.at(step).shared_uniform("times") for step in range(500)]
    assert stats.kstest(shared, "uniform").statistic * math.sqrt(500) < KOLMOGOROV
    assert draws.shared_uniform("other") != shared[0]
    assert Draws(0, torch.arange(90, 99)).shared_uniform("times") == shared[0]
