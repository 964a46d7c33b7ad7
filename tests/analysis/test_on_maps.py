"""Every statistic on a torus, on hexagons and on a sphere, against float64 loops over places.

Geometry is worked out here from what the shapes mean: nothing is asked of a map but its name.
"""

import itertools

import numpy as np
import pytest

import lgnn_jax as lgnn
from lgnn_jax.analysis.activations import shared_regions
from lgnn_jax.analysis.correlations import correlation_maps
from lgnn_jax.analysis.topography import (
    correlation_by_distance,
    morans_i,
    neighbour_correlation,
    smoothness,
    topography,
)
from lgnn_jax.analysis.trustworthiness import trustworthiness


def _torus(m, n):
    def distance(i, j):
        (a, b), (c, d) = divmod(i, n), divmod(j, n)
        images = itertools.product((c - m, c, c + m), (d - n, d, d + n))
        return min(np.sqrt((a - x) ** 2 + (b - y) ** 2) for x, y in images)

    return distance


def _hexagons(m, n, *, wrap):
    def place(row, column):
        return np.array([row * np.sqrt(3) / 2, column + (row % 2) / 2])

    def distance(i, j):
        (a, b), (c, d) = divmod(i, n), divmod(j, n)
        shifts = itertools.product((-m, 0, m), (-n, 0, n)) if wrap else [(0, 0)]
        # m is even where it wraps: a row that goes around is shifted as before.
        return min(np.linalg.norm(place(a, b) - place(c + x, d + y)) for x, y in shifts)

    return distance


def _sphere(count):
    golden = (np.sqrt(5) - 1) / 2  # of a turn, or its rest: the same spiral
    radius = np.sqrt(count * np.sqrt(3) / 2 / (4 * np.pi))

    def place(i):
        height = 1 - (2 * i + 1) / count
        turn = 2 * np.pi * i * golden
        across = np.sqrt(1 - height**2)
        return np.array([across * np.cos(turn), across * np.sin(turn), height])

    def distance(i, j):
        between = np.linalg.norm(np.cross(place(i), place(j)))
        return radius * np.arctan2(between, place(i) @ place(j))

    return distance


MAPS = {
    "torus": (lgnn.grid(8, 4, wrap=True), _torus(8, 4)),
    "hexagons": (lgnn.hexagonal(5, 4), _hexagons(5, 4, wrap=False)),
    "hexagonal torus": (lgnn.hexagonal(6, 4, wrap=True), _hexagons(6, 4, wrap=True)),
    "sphere": (lgnn.sphere(30), _sphere(30)),
}


@pytest.fixture(params=MAPS, scope="module")
def case(request):
    """A map, distances place by place, pairs of neighbours, features of some order."""
    map, distance = MAPS[request.param]
    count = map.count
    distances = np.array([[distance(i, j) for j in range(count)] for i in range(count)])
    squares = distances.round(9) ** 2
    pairs = [
        (i, j)
        for i, j in itertools.combinations(range(count), 2)
        if all(
            squares[i, k] + squares[k, j] > squares[i, j] * (1 + 1e-6)
            for k in range(count)
            if k not in (i, j)
        )
    ]
    rng = np.random.default_rng(3)
    features = np.exp(-(distances**2) / 2) @ rng.normal(size=(count, 12))
    return map, distances, pairs, features + 0.3 * rng.normal(size=features.shape)


def _pearson(features):
    return np.corrcoef(features)


def test_distances_and_neighbours(case):
    map, distances, pairs, _ = case
    np.testing.assert_allclose(map.distances(), distances, atol=1e-7)
    assert {tuple(sorted(pair)) for pair in map.edges().tolist()} == set(pairs)


def test_correlation_of_neighbours(case):
    map, _, pairs, features = case
    correlations = _pearson(features)
    expected = np.mean([correlations[i, j] for i, j in pairs])
    found = neighbour_correlation(features, map, neuron_axis=0, shuffles=5)
    assert found.value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("reach", [1.2, 1.5, 2.1])
def test_morans_i(case, reach):
    """The usual one of each feature, with the mean weighted by variances."""
    map, distances, _, features = case
    count = map.count
    weights = (distances <= reach + 1e-9) & ~np.eye(count, dtype=bool)
    values, variances = [], []
    for x in features.T:
        z = x - x.mean()
        cross = sum(weights[i, j] * z[i] * z[j] for i in range(count) for j in range(count))
        values.append(count / weights.sum() * cross / (z @ z))
        variances.append(z @ z)
    found = morans_i(features, map, reach=reach, shuffles=5)
    assert found.value == pytest.approx(np.average(values, weights=variances), rel=1e-10)


def test_morans_i_of_places_that_are_all_too_far(case):
    map, *_, features = case
    with pytest.raises(ValueError, match=r"no two places on map .* are within reach 0\.3"):
        morans_i(features, map, reach=0.3)


def test_correlation_by_distance_and_smoothness(case):
    map, distances, _, features = case
    correlations, bins = _pearson(features), {}
    for i, j in itertools.combinations(range(map.count), 2):
        bins.setdefault(max(1, round(distances[i, j])), []).append(correlations[i, j])
    found = correlation_by_distance(features, map, shuffles=5)
    assert found.distance.tolist() == sorted(bins)
    assert found.pairs.tolist() == [len(bins[d]) for d in sorted(bins)]
    np.testing.assert_allclose(found.value, [np.mean(bins[d]) for d in sorted(bins)], rtol=1e-10)
    near = [1 - np.mean(bins[d]) for d in sorted(bins) if d <= max(2, distances.max() / 2)]
    expected = (max(near) - near[0]) / max(near)
    assert smoothness(features, map, shuffles=5).value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("k", [1, 4, 8])
def test_trustworthiness(case, k):
    """The mean over ways to break ties on the map, which are all tried by shares."""
    map, distances, _, features = case
    count = map.count
    correlations = _pearson(features)
    total = 0.0
    for i in range(count):
        others = [j for j in range(count) if j != i]
        rank = {j: r for r, j in enumerate(sorted(others, key=lambda j: -correlations[i, j]), 1)}
        apart = {j: round(distances[i, j], 6) for j in others}
        last = sorted(apart.values())[k - 1]
        nearer = [j for j in others if apart[j] < last]
        tied = [j for j in others if apart[j] == last]
        total += sum(max(0, rank[j] - k) for j in nearer)
        total += (k - len(nearer)) * np.mean([max(0, rank[j] - k) for j in tied])
    expected = 1 - 2 / (count * k * (2 * count - 3 * k - 1)) * total
    found = trustworthiness(features, map, neighbours=k, shuffles=5)
    assert found.value == pytest.approx(expected, rel=1e-10)


def test_shuffled_maps_are_beside_all_of_it(case):
    map, *_, features = case
    found = topography(features, map, shuffles=50)
    assert found.neighbours.p < 0.05
    assert found.trustworthiness.p < 0.05
    assert found.neighbours.shuffled.mean() < found.neighbours.value - 0.2


def test_shuffled_neurons_settle_again(case):
    """Most of the order comes back, by the sum over pairs of neighbours."""
    map, distances, pairs, _ = case
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, map.count)) @ np.exp(-(distances**2) / 2)
    correlations = _pearson(features.T)
    shuffled = rng.permutation(map.count)
    found = shuffled[lgnn.settle(features[:, shuffled], map)]
    assert sorted(found.tolist()) == list(range(map.count))

    def order(placed):
        return sum(correlations[placed[i], placed[j]] for i, j in pairs)

    random = [order(np.random.default_rng(i).permutation(map.count)) for i in range(20)]
    gained = order(range(map.count)) - np.mean(random)
    assert order(found) > np.mean(random) + 0.6 * gained
    assert order(found) > max(random)


def test_neighbours_that_are_alike(case):
    map, distances, _, features = case
    found = correlation_maps(features, map, [0, map.count - 1], neuron_axis=0, share=0.2)
    correlations = _pearson(features)
    threshold = np.quantile(correlations[np.triu_indices(map.count, 1)], 0.8)
    assert found.threshold == pytest.approx(threshold)
    for place, near in zip(found.places, found.neighbours, strict=True):
        expected = {
            j
            for j in range(map.count)
            if 0 < distances[place, j] <= 1.5 and correlations[place, j] >= max(threshold, 1e-12)
        }
        assert set(near) == expected


def test_regions_go_on_where_the_map_does(case):
    """Flooded from place to place over pairs of neighbours."""
    map, _, pairs, _ = case
    rng = np.random.default_rng(1)
    means = rng.normal(size=(5, map.count))
    found = shared_regions(means, map, [0, 1], threshold=-0.5, shuffles=5)
    left = set(np.flatnonzero(found.scores > -0.5).tolist())
    regions = []
    while left:
        region, border = set(), {left.pop()}
        while border:
            place = border.pop()
            region.add(place)
            beside = {j for i, j in pairs if i == place} | {i for i, j in pairs if j == place}
            border |= beside & left
            left -= beside
        regions.append(sorted(region))
    assert sorted(r.neurons.tolist() for r in found.regions) == sorted(regions)
    for region in found.regions:
        assert region.mass == pytest.approx((found.scores[region.neurons] + 0.5).sum())
