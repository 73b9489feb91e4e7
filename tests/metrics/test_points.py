import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from suffuse.base.errors import RunError, UsageError
from suffuse.metrics import points
from suffuse.metrics.points import nearest_neighbours, points_of, rounding_margin, squared_distances


def _cloud(n, d, seed, offset=0.0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + offset


@pytest.mark.parametrize("exclude_self", [False, True])
def test_neighbours_are_those_of_scikit_learn_across_blocks(monkeypatch, exclude_self):
    monkeypatch.setattr(points, "_QUERIES", 7)
    monkeypatch.setattr(points, "_REFERENCES", 11)
    references = _cloud(100, 5, 0)
    queries = references if exclude_self else _cloud(40, 5, 1)
    distances, indices = nearest_neighbours(queries, references, 3, exclude_self=exclude_self)
    search = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(references.numpy())
    expected, places = search.kneighbors(None if exclude_self else queries.numpy())
    assert np.array_equal(indices.numpy(), places)
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-12)


def test_more_neighbours_than_a_block_holds(monkeypatch):
    monkeypatch.setattr(points, "_REFERENCES", 2)
    distances, indices = nearest_neighbours(_cloud(3, 2, 0), _cloud(5, 2, 1), 5)
    assert (distances.diff(dim=1) >= 0).all()
    assert (indices.sort(dim=1).values == torch.arange(5)).all()


def test_a_copy_is_at_exactly_zero_even_far_from_the_origin():
    references = _cloud(200, 50, 0, offset=1000.0).float()
    distances, indices = nearest_neighbours(references[50:60].clone(), references)
    assert (distances == 0).all()
    assert indices[:, 0].tolist() == list(range(50, 60))


def test_a_duplicate_row_is_a_neighbour_but_the_row_itself_is_not():
    rows = _cloud(20, 3, 0)
    rows[7] = rows[3]
    distances, indices = nearest_neighbours(rows, rows, exclude_self=True)
    assert (int(indices[7]), int(indices[3])) == (3, 7)
    assert float(distances[7]) == float(distances[3]) == 0
    assert (indices[:, 0] != torch.arange(20)).all()


@pytest.mark.parametrize("width", [2, 3072])
def test_the_rounding_margin_covers_the_error_of_the_product(width):
    x, y = _cloud(50, width, 0, 3.0), _cloud(60, width, 1, 3.0)
    y[:50] = x
    exact = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    assert ((squared_distances(x, y) - exact).abs() <= rounding_margin(x, y)).all()


def test_points_of_takes_images_integers_and_read_only_arrays():
    images = np.arange(24, dtype=np.uint8).reshape(2, 1, 3, 4)
    images.flags.writeable = False
    assert points_of(images, "x").tolist() == images.reshape(2, 12).tolist()
    assert points_of(torch.zeros(2, 3), "x").dtype == torch.float32


def test_bad_points_are_named():
    broken = torch.zeros(5, 2)
    broken[3, 1] = torch.nan
    with pytest.raises(RunError, match=r"the set has NaN or infinity in 1 of 5 points, the first is point 3"):
        points_of(broken, "the set")
    with pytest.raises(UsageError, match=r"the set has 1 points; at least 2"):
        points_of(torch.zeros(1, 2), "the set", least=2)
    with pytest.raises(UsageError, match=r"shape \(4,\)"):
        points_of(torch.zeros(4), "the set")
    with pytest.raises(UsageError, match="3 neighbours need 4 points, not 3"):
        nearest_neighbours(torch.zeros(3, 2), torch.zeros(3, 2), 3, exclude_self=True)
