from dataclasses import astuple

import numpy as np
import pytest
from scipy.stats import chi2

import lgnn_jax as lgnn
from lgnn_jax.analysis.shuffles import shuffled_maps
from lgnn_jax.analysis.topography import (
    AgainstShuffles,
    correlation_by_distance,
    morans_i,
    neighbour_correlation,
    smoothness,
    topography,
)
from lgnn_jax.analysis.trustworthiness import trustworthiness

UP, DOWN = [0.0, 1.0], [1.0, 0.0]  # features with correlation -1


def _gradient(dims, features=40):
    """Neurons that respond to places: hills here and there, each as wide as a third of the map."""
    rng = np.random.default_rng(0)
    places = np.argwhere(np.ones(dims)) / max(dims)
    hills = rng.random((features, 2)) * np.divide(dims, max(dims))
    return np.exp(-((places[:, None] - hills) ** 2).sum(axis=-1) * 4.5)


def _figures(found):
    """All figures against shuffles, by name."""
    return {name: x for name, x in vars(found).items() if isinstance(x, AgainstShuffles)}


def _values(found):
    return [x.value for x in _figures(found).values()] + found.by_distance.value.tolist()


def test_order_is_told_from_disorder():
    rng = np.random.default_rng(0)
    rows, columns = np.divmod(np.arange(64), 8)
    angles = np.stack([rows, columns]) * 0.4
    waves = np.stack([np.cos(k * angles[a] + k) for k in (1, 2) for a in (0, 1)])
    ordered = waves + 0.3 * rng.normal(size=waves.shape)
    figure = neighbour_correlation(ordered, (8, 8))
    assert figure.value > 0.5
    assert figure.value > figure.shuffled.max() + 0.2
    disordered = neighbour_correlation(ordered[:, rng.permutation(64)], (8, 8))
    assert abs(disordered.z) < 4


def test_hand_solved_map():
    """Filters +, +, -, - on a 2x2 map: rows agree, columns differ; 2 pairs of each."""
    kernel = np.array([[1.0, 1, -1, -1], [-1, -1, 1, 1]])
    figure = neighbour_correlation(kernel, (2, 2), shuffles=500)
    assert figure.value == pytest.approx(0)
    # Equals on a diagonal, one case of three: all neighbours differ. Else half of them do.
    assert set(figure.shuffled.round(9)) == {-1.0, 0.0}
    assert figure.shuffled.mean() == pytest.approx(-1 / 3, abs=0.08)
    assert figure.p == pytest.approx(2 / 3, abs=0.08)


def test_morans_i_by_hand():
    """3x3, 20 pairs that touch. One neuron differs: z is 8/9 there and -1/9 elsewhere, squares 8/9.

    In a corner it is in 3 pairs, in the middle in 8: sums of products (17 - 3 * 8) / 81 and (12 -
    8 * 8) / 81, times 9 / 20, by 8 / 9.
    """
    corner, middle = np.eye(9)[:, [0]], np.eye(9)[:, [4]]
    assert morans_i(corner, (3, 3), shuffles=1).value == pytest.approx(-7 / 160)
    assert morans_i(middle, (3, 3), shuffles=1).value == pytest.approx(-52 / 160)
    # Of both, the second with four times the variance.
    both = np.concatenate([corner, 2 * middle + 7], axis=1)
    assert morans_i(both, (3, 3), shuffles=1).value == pytest.approx((-7 - 4 * 52) / 5 / 160)
    # All neurons of a 2x2 map touch: whatever they are, -1 / (N - 1).
    full = morans_i(np.random.default_rng(0).normal(size=(4, 3)), (2, 2), shuffles=20)
    np.testing.assert_allclose([full.value, *full.shuffled], -1 / 3)
    assert (full.z, full.p) == (None, 1)


@pytest.mark.parametrize("dims", [(5, 4), (7, 1), (1, 6), (2, 3)])
def test_morans_i_against_esda(dims):
    from esda.moran import Moran
    from libpysal.weights import lat2W

    features = np.random.default_rng(0).normal(size=(dims[0] * dims[1], 6)).cumsum(axis=0)
    weights = lat2W(*dims, rook=False)
    theirs = [Moran(column, weights, transformation="b", permutations=0).I for column in features.T]
    for column, expected in zip(features.T, theirs, strict=True):
        assert morans_i(column[:, None], dims, shuffles=1).value == pytest.approx(expected)
    expected = np.average(theirs, weights=features.var(axis=0))
    assert morans_i(features, dims, shuffles=1).value == pytest.approx(expected)


def test_curve_by_hand():
    """2x3, the columns +, + and -. Within 1.5: 3 vertical pairs agree; of the columns 0 and 1, 2
    pairs and 2 across, which agree; of 1 and 2 as many, which differ. Beyond: 4 pairs that differ.
    """
    curve = correlation_by_distance([UP, UP, DOWN] * 2, (2, 3), shuffles=1)
    assert (curve.distance.tolist(), curve.pairs.tolist()) == ([1, 2], [11, 4])
    np.testing.assert_allclose(curve.value, [3 / 11, -1])
    share = smoothness([UP, UP, DOWN] * 2, (2, 3), shuffles=1)
    assert share.value == pytest.approx((2 - 8 / 11) / 2)


def test_curve_against_loops():
    features = np.random.default_rng(0).normal(size=(20, 7)).cumsum(axis=0)
    correlations = np.corrcoef(features)
    found = {}
    for i in range(20):
        for j in range(i):
            distance = np.hypot(i // 4 - j // 4, i % 4 - j % 4)
            found.setdefault(int(distance + 0.5), []).append(correlations[i, j])
    curve = correlation_by_distance(features, (5, 4), shuffles=1)
    assert curve.distance.tolist() == sorted(found) == [1, 2, 3, 4, 5]
    assert curve.pairs.tolist() == [len(found[d]) for d in sorted(found)]
    np.testing.assert_allclose(curve.value, [np.mean(found[d]) for d in sorted(found)])


@pytest.mark.parametrize("dims", [(32, 16), (16, 16), (1, 9), (40, 2)])
def test_no_distance_is_without_pairs(dims):
    curve = correlation_by_distance(np.eye(dims[0] * dims[1]), dims, shuffles=1)
    assert curve.distance.tolist() == list(range(1, len(curve.distance) + 1))
    assert curve.distance[-1] == round(np.hypot(dims[0] - 1, dims[1] - 1))
    count = dims[0] * dims[1]
    assert curve.pairs.min() > 0
    assert curve.pairs.sum() == count * (count - 1) / 2


def test_shuffles_of_a_curve_by_hand():
    """+, + and - on a strip: the - is in the middle in a share q of the shuffles, near 1/3.

    There the neighbours differ (-1) and the others agree (1), elsewhere (0, -1).
    """
    curve = correlation_by_distance([UP, UP, DOWN], (3, 1), shuffles=600)
    assert {tuple(row) for row in curve.shuffled.round(9)} == {(-1.0, 1.0), (0.0, -1.0)}
    q = np.mean(curve.shuffled[:, 1] > 0)
    assert q == pytest.approx(1 / 3, abs=0.08)
    np.testing.assert_allclose(curve.mean, [-q, 2 * q - 1], atol=1e-12)
    np.testing.assert_allclose(curve.deviation, np.sqrt(q * (1 - q)) * np.array([1, 2]))


def test_smoothness_looks_as_far_as_half_the_diagonal():
    """Four + and four - on a strip, whose half is 3.5: dissimilarities 1 - 5/7, 1 - 2/6, 1 + 1/5.

    The next one, of neurons 4 apart, would be 2.
    """
    figure = smoothness([UP] * 4 + [DOWN] * 4, (8, 1), shuffles=1)
    assert figure.value == pytest.approx((6 / 5 - 2 / 7) / (6 / 5))


def test_a_curve_that_falls_is_not_smooth():
    """+ and - by turns: neighbours differ most of all."""
    assert smoothness([UP, DOWN] * 4, (8, 1), shuffles=1).value == 0


def test_one_call_returns_what_the_functions_do():
    features = _gradient((4, 3), features=5)
    found = topography(features, (4, 3), shuffles=20, seed=3)
    alone = {
        "neighbours": neighbour_correlation(features, (4, 3), neuron_axis=0, shuffles=20, seed=3),
        "morans_i": morans_i(features, (4, 3), shuffles=20, seed=3),
        "smoothness": smoothness(features, (4, 3), shuffles=20, seed=3),
        "trustworthiness": trustworthiness(features, (4, 3), shuffles=20, seed=3),
    }
    assert _figures(found).keys() == alone.keys()
    for name, figure in _figures(found).items():
        assert figure.value == alone[name].value
        np.testing.assert_array_equal(figure.shuffled, alone[name].shuffled)
    curve = correlation_by_distance(features, (4, 3), shuffles=20, seed=3)
    for ours, theirs in zip(astuple(found.by_distance), astuple(curve), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_shuffle_is_the_figure_of_the_neurons_in_that_order():
    features = np.random.default_rng(0).normal(size=(20, 7)).cumsum(axis=0)
    found = topography(features, (5, 4), shuffles=4, seed=3)
    for i, neurons in enumerate(shuffled_maps(20, (5, 4), 4, 3)):
        placed = topography(features[neurons], (5, 4), shuffles=1)
        shuffled = [figure.shuffled[i] for figure in _figures(found).values()]
        np.testing.assert_allclose(_values(placed), [*shuffled, *found.by_distance.shuffled[i]])
        assert placed.effective_dimensionality == pytest.approx(found.effective_dimensionality)


def test_a_turned_map_is_the_same_map():
    """Neurons in another order, on a map that changes as they do."""
    features = np.random.default_rng(0).normal(size=(5, 4, 7)).cumsum(axis=0)
    features[1, 2], features[3, 3] = 0, features[0, 0]
    expected = topography(features.reshape(20, 7), (5, 4), shuffles=1)
    turned = [features[::-1], features[:, ::-1], features.swapaxes(0, 1), np.rot90(features)]
    for other in turned:
        found = topography(other.reshape(20, 7), other.shape[:2], shuffles=1)
        np.testing.assert_allclose(_values(found), _values(expected), atol=1e-12)


@pytest.mark.parametrize("dims", [(8, 8), (12, 5), (1, 24), (24, 1)])
def test_a_perfect_map_has_the_least_p(dims):
    found = topography(_gradient(dims), dims, shuffles=99)
    for name, figure in _figures(found).items():
        assert figure.p == 1 / 100, name
        assert figure.z > 3, name
    assert (np.diff(found.by_distance.value[: max(dims) // 2]) < 0).all()
    assert found.by_distance.value[0] > found.by_distance.shuffled[:, 0].max()


def test_p_is_uniform_without_order():
    """300 layers, each with one of 20 equally likely p: Pearson's test of their counts.

    Where the curve of two bins falls, as half of them do, smoothness is 0 and p 1: of its p those
    below 1/2 are uniform.
    """
    p = {}
    for seed in range(300):
        features = np.random.default_rng([seed, 1]).normal(size=(24, 10))
        found = topography(features, (6, 4), shuffles=19, seed=seed)
        for name, figure in _figures(found).items():
            p.setdefault(name, []).append(figure.p)
    assert len(p) == 4
    for name, values in p.items():
        cells = 8 if name == "smoothness" else 19
        counts = [np.isclose(values, i / 20).sum() for i in range(1, cells + 1)]
        observed = np.array([*counts, 300 - sum(counts)])
        expected = np.array([15] * cells + [300 - 15 * cells])
        assert ((observed - expected) ** 2 / expected).sum() < chi2.isf(1e-4, cells), name


def _finite(found):
    curve = found.by_distance
    arrays = [np.ravel(array) for array in (curve.value, curve.shuffled, curve.mean)]
    for figure in _figures(found).values():
        assert figure.z is None or np.isfinite(figure.z)
        assert 0 < figure.p <= 1
        arrays += [[figure.value], figure.shuffled]
    return np.isfinite(np.concatenate([*arrays, [found.effective_dimensionality]])).all()


@pytest.mark.parametrize("dims", [(4, 4), (1, 16), (16, 1), (8, 2)])
def test_dead_neurons_count_and_do_not_correlate(dims):
    features = _gradient(dims, features=9)
    features[[2, 7]] = [[0.0], [0.1]]
    found = topography(features, dims, shuffles=20)
    assert _finite(found)
    assert (found.dead.tolist(), found.dead_count) == ([2, 7], 2)
    correlations = np.zeros((16, 16))
    live = [j for j in range(16) if j not in (2, 7)]
    correlations[np.ix_(live, live)] = np.corrcoef(features[live])
    pairs = lgnn.grid(*dims).edges()
    assert found.neighbours.value == pytest.approx(correlations[pairs[:, 0], pairs[:, 1]].mean())


@pytest.mark.parametrize("constant", [0.0, 0.1])
def test_a_dead_layer(constant):
    found = topography(np.full((16, 9), constant), (4, 4), shuffles=20)
    assert _finite(found)
    assert found.dead.tolist() == list(range(16))
    assert found.effective_dimensionality == 0
    for figure in _figures(found).values():
        assert (figure.z, figure.p) == (None, 1)
    assert (found.by_distance.value == 0).all()
    values = {name: figure.value for name, figure in _figures(found).items()}
    # k is 7, of ranks 1 to 15 that all tie: the mean excess is (1 + ... + 8) / 15.
    chance = 1 - 2 / (16 * 7 * (32 - 21 - 1)) * 16 * 7 * 36 / 15
    assert values == pytest.approx(
        {"neighbours": 0, "morans_i": 0, "smoothness": 0, "trustworthiness": chance}
    )


def test_a_layer_of_equal_neurons():
    """Neighbours are as alike as can be, and so are all others: no order."""
    found = topography(np.tile(np.random.default_rng(0).normal(size=9), (16, 1)), (4, 4))
    assert _finite(found)
    assert found.neighbours.value == pytest.approx(1)
    assert found.effective_dimensionality == pytest.approx(1)
    assert found.dead_count == 0
    for figure in _figures(found).values():
        assert (figure.z, figure.p) == (None, 1)


@pytest.mark.parametrize("dims", [(2, 1), (1, 2), (3, 1), (2, 2), (1, 5)])
def test_small_maps(dims):
    features = np.random.default_rng(0).normal(size=(dims[0] * dims[1], 3))
    assert _finite(topography(features, dims, shuffles=5))
    assert _finite(topography(features, dims, shuffles=1))
    assert _finite(topography(features[:, :1], dims, shuffles=5))


def test_layers_that_have_no_figures():
    with pytest.raises(ValueError, match=r"4x2 does not fit 9 filters"):
        neighbour_correlation(np.eye(9), (4, 2))
    with pytest.raises(ValueError, match="1x1 holds a single neuron"):
        topography(np.ones((1, 5)), (1, 1))
    features = np.ones((4, 5))
    features[3, 2] = np.nan
    for call in (topography, morans_i, correlation_by_distance, smoothness, trustworthiness):
        with pytest.raises(ValueError, match="neuron 3 has nan among its features"):
            call(features, (2, 2))
        with pytest.raises(ValueError, match=r"map 2x3 does not fit 4 filters"):
            call(np.eye(4), (2, 3))
        with pytest.raises(ValueError, match="features must have shape"):
            call(np.zeros((3, 3, 4)), (2, 2))
