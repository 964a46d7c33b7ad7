import numpy as np
import pytest

from lgnn_jax.analysis.topography import filter_correlations, neighbour_correlation, neighbour_pairs


def test_correlations_against_numpy():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 10)) + 2
    expected = np.corrcoef(kernel.reshape(-1, 10).T)
    np.testing.assert_allclose(filter_correlations(kernel), expected, atol=1e-12)
    first = np.moveaxis(kernel, -1, 0)
    np.testing.assert_allclose(filter_correlations(first, neuron_axis=0), expected, atol=1e-12)


def test_constant_and_dead_filters_have_no_correlation():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
    kernel[..., 1], kernel[..., 2] = 0, 0.1
    correlations = filter_correlations(kernel)
    assert np.isfinite(correlations).all()
    assert (correlations[1:3] == 0).all()
    assert correlations[0, 0] == pytest.approx(1)


def test_pairs_of_a_map():
    pairs = {tuple(pair) for pair in neighbour_pairs((3, 2)).tolist()}
    assert pairs == {(0, 2), (1, 3), (2, 4), (3, 5), (0, 1), (2, 3), (4, 5)}
    assert len(neighbour_pairs((32, 16))) == 31 * 16 + 32 * 15


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
    z = (disordered.value - disordered.shuffled.mean()) / disordered.shuffled.std()
    assert abs(z) < 4


def test_hand_solved_map():
    """Filters +, +, -, - on a 2x2 map: rows agree, columns differ; 2 pairs of each."""
    kernel = np.array([[1.0, 1, -1, -1], [-1, -1, 1, 1]])
    figure = neighbour_correlation(kernel, (2, 2), shuffles=500)
    assert figure.value == pytest.approx(0)
    # Equals on a diagonal, one case of three: all neighbours differ. Else half of them do.
    assert set(figure.shuffled.round(9)) == {-1.0, 0.0}
    assert figure.shuffled.mean() == pytest.approx(-1 / 3, abs=0.08)


def test_a_map_that_does_not_fit():
    with pytest.raises(ValueError, match=r"\(4, 2\) does not fit 9 filters"):
        neighbour_correlation(np.eye(9), (4, 2))
