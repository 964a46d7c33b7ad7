import itertools

import numpy as np
import pytest

from lgnn_jax.analysis.arrange import arrange
from lgnn_jax.maps.grid import grid


def _order(correlations, placed, dims):
    """Sum of the correlations of map neighbours, one by one."""
    return sum(correlations[placed[a], placed[b]] for a, b in grid(*dims).edges())


def _correlations(count, features=6, seed=0):
    return np.corrcoef(np.random.default_rng(seed).normal(size=(count, features)))


@pytest.mark.parametrize("dims", [(4, 3), (3, 4), (6, 2), (12, 1), (1, 12), (1, 1)])
def test_no_swap_helps(dims):
    """Tried one by one."""
    count = dims[0] * dims[1]
    correlations = _correlations(count) if count > 1 else np.ones((1, 1))
    placed = arrange(correlations, dims)
    assert sorted(placed.tolist()) == list(range(count))
    best = _order(correlations, placed, dims)
    for a, b in itertools.combinations(range(count), 2):
        other = placed.copy()
        other[[a, b]] = other[[b, a]]
        assert _order(correlations, other, dims) <= best + 1e-9


def test_near_the_best_of_all():
    """Of all 720 placements of six neurons on a 3x2 map; a swap's optimum need not be the best."""
    shares = []
    for seed in range(10):
        correlations = _correlations(6, seed=seed)
        all_ = [_order(correlations, p, (3, 2)) for p in itertools.permutations(range(6))]
        found = _order(correlations, arrange(correlations, (3, 2)), (3, 2))
        shares.append((found - np.mean(all_)) / (max(all_) - np.mean(all_)))
    assert np.median(shares) > 0.98
    assert min(shares) > 0.8


def test_a_shuffled_map_is_found_again():
    """Smooth filters: as ordered as before they were shuffled."""
    rows, columns = np.mgrid[:8, :4] / 8
    centres = np.stack(np.meshgrid(np.linspace(0, 1, 6), np.linspace(0, 0.5, 4)), -1).reshape(-1, 2)
    place = np.stack([rows, columns], -1).reshape(-1, 1, 2)
    features = np.exp(-(((place - centres) / 0.25) ** 2).sum(-1))
    shuffled = np.random.default_rng(0).permutation(32)
    correlations = np.corrcoef(features)
    before = _order(correlations, np.arange(32), (8, 4))
    after = _order(
        correlations[shuffled][:, shuffled],
        arrange(correlations[shuffled][:, shuffled], (8, 4)),
        (8, 4),
    )
    assert after > 0.98 * before


def test_same_input_same_placement():
    correlations = _correlations(24)
    np.testing.assert_array_equal(arrange(correlations, (6, 4)), arrange(correlations, (6, 4)))


def test_bad_input():
    with pytest.raises(ValueError, match=r"map 3x2 does not fit correlations of shape \(5, 5\)"):
        arrange(np.eye(5), (3, 2))
    with pytest.raises(ValueError, match="correlations must be finite"):
        arrange(np.full((6, 6), np.nan), (3, 2))
    with pytest.raises(ValueError, match="each at least 1, got -3x-2"):
        arrange(np.eye(6), (-3, -2))
    with pytest.raises(ValueError, match="correlations must be symmetric"):
        arrange(np.random.default_rng(0).normal(size=(6, 6)), (3, 2))


def test_large_numbers_with_ties_come_to_an_end():
    kinds = np.arange(24) % 3
    ties = 1e12 * (kinds[:, None] == kinds)
    # Eight neurons of a kind on two of six rows have ten pairs of neighbours, were they apart.
    assert _order(ties, arrange(ties, (6, 4)), (6, 4)) >= 0.8 * 30e12
