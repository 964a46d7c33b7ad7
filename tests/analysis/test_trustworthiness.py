from itertools import combinations, permutations

import numpy as np
import pytest

from lgnn_jax.analysis.trustworthiness import trustworthiness


def _waves(degrees):
    """Features whose correlations are the cosines of the differences between these angles."""
    return np.cos(np.radians(degrees)[:, None] - np.radians([0, 120, 240]))


def _by_enumeration(features, dims, k):
    """The mean over all orders and neighbourhoods that the ties allow, one by one."""
    with np.errstate(invalid="ignore"):
        distances = 1 - np.nan_to_num(np.corrcoef(features)).round(9)
    places = [divmod(j, dims[1]) for j in range(len(features))]
    total = 0.0
    for i in range(len(features)):
        others = [j for j in range(len(features)) if j != i]
        ordered = [p for p in permutations(others) if (np.diff(distances[i, list(p)]) >= 0).all()]
        far = {j: np.hypot(*np.subtract(places[i], places[j])).round(9) for j in others}
        nearest = [
            near
            for near in combinations(others, k)
            if max(far[j] for j in near) <= min(far[j] for j in others if j not in near)
        ]
        total += np.mean(
            [
                sum(max(0, order.index(j) + 1 - k) for j in near)
                for order in ordered
                for near in nearest
            ]
        )
    count = len(features)
    return 1 - total * 2 / (count * k * (2 * count - 3 * k - 1))


def test_by_hand():
    """A strip of 5, k = 1: ranks of neighbours on the map, of which inner neurons have two.

    Neuron 0 at 0 degrees: neighbour 1 has rank 1. Neuron 1 at 60: 0 is 60 away, 2 is 40, 3 is 50,
    4 is 29; so 0 has rank 4 and 2 has 2: excesses 3 and 1, half of each. Neuron 2 at 20 degrees: 1
    is 40 away, 3 is 90, 0 is 20, 4 is 11: ranks 3 and 4, excesses 2 and 3. Neuron 3 at 110: 2 is
    90 away, 4 is 79, 1 is 50, 0 is 110: ranks 3 and 2, excesses 2 and 1. Neuron 4 at 31: 3 is 79
    away, 2 is 11, 1 is 29, 0 is 31: rank 4, excess 3. For neuron 0: 1 is 60 away, 2 is 20, 4 is 31,
    3 is 110: rank 3, excess 2.
    """
    total = 2 + (3 + 1) / 2 + (2 + 3) / 2 + (2 + 1) / 2 + 3
    features = _waves([0, 60, 20, 110, 31])
    for dims in ((5, 1), (1, 5)):
        figure = trustworthiness(features, dims, neighbours=1, shuffles=1)
        assert figure.value == pytest.approx(1 - total * 2 / (5 * 1 * (10 - 3 - 1)))


# Maps of two columns and k of 3 or 5, and strips and k of 2, 4 or 6, are without ties.
@pytest.mark.parametrize(
    ("dims", "neighbours"),
    [((12, 2), 3), ((2, 10), 5), ((20, 1), 2), ((1, 15), 4), ((30, 1), 6)],
)
def test_against_sklearn_where_nothing_ties(dims, neighbours):
    from sklearn.manifold import trustworthiness as theirs

    rng = np.random.default_rng(0)
    features = np.cumsum(rng.normal(size=(dims[0] * dims[1], 9)), axis=0)
    places = np.argwhere(np.ones(dims))
    expected = theirs(features, places, n_neighbors=neighbours, metric="correlation")
    figure = trustworthiness(features, dims, neighbours=neighbours, shuffles=3, seed=1)
    assert 0.5 < expected < 0.99
    assert figure.value == pytest.approx(expected, abs=1e-12)
    rng = np.random.default_rng(1)
    for shuffled in figure.shuffled:
        neurons = rng.permutation(len(features))
        expected = theirs(features[neurons], places, n_neighbors=neighbours, metric="correlation")
        assert shuffled == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dims", [(3, 2), (1, 6)])
@pytest.mark.parametrize("neighbours", [1, 2])
def test_ties_against_enumeration(dims, neighbours):
    """Ties on the map; then twins and dead neurons as well, whose correlations tie."""
    features = np.random.default_rng(0).normal(size=(6, 8))
    features[4] = features[1]
    for dead in ([], [2], [2, 5], list(range(6))):
        features[dead] = 0.1
        figure = trustworthiness(features, dims, neighbours=neighbours, shuffles=1)
        expected = _by_enumeration(features, dims, neighbours)
        assert figure.value == pytest.approx(expected, abs=1e-12)


def test_neighbours_that_touch_are_the_default():
    features = np.random.default_rng(0).normal(size=(25, 6))
    default = trustworthiness(features, (5, 5), shuffles=1)
    assert default.value == trustworthiness(features, (5, 5), neighbours=8, shuffles=1).value
    small = trustworthiness(features[:6], (3, 2), shuffles=1)
    assert small.value == trustworthiness(features[:6], (3, 2), neighbours=2, shuffles=1).value


def test_two_neurons_are_each_others_nearest():
    figure = trustworthiness(np.eye(2), (2, 1), shuffles=3)
    assert (figure.value, figure.shuffled.tolist()) == (1, [1, 1, 1])


@pytest.mark.parametrize("neighbours", [0, -1, 3])
def test_neighbours_out_of_range(neighbours):
    with pytest.raises(ValueError, match=f"less than half .* neurons, 6, got {neighbours}"):
        trustworthiness(np.eye(6), (3, 2), neighbours=neighbours)
