import jax.numpy as jnp
import numpy as np
import pytest

from lgnn_jax.analysis.filters import (
    as_features,
    dead_filters,
    effective_dimensionality,
    filter_correlations,
    filter_features,
    magnitudes,
    normalized_filters,
)


def test_features_of_a_kernel():
    kernel = np.arange(24).reshape(2, 3, 4)
    expected = [[kernel[i, j, n] for i in range(2) for j in range(3)] for n in range(4)]
    assert filter_features(kernel).tolist() == expected
    assert filter_features(np.moveaxis(kernel, -1, 0), neuron_axis=0).tolist() == expected
    assert filter_features(jnp.asarray(kernel, jnp.bfloat16)).tolist() == expected
    assert filter_features(kernel.astype(np.float32)).dtype == np.float64


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (4, 0), (0, 4)])
def test_features_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"features must have shape \(neurons, features\), got"):
        as_features(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_neuron_that_is_not_finite_is_named(value):
    features = np.zeros((5, 3))
    features[2, 1], features[4, 0] = value, np.nan
    for call in (dead_filters, effective_dimensionality, as_features):
        with pytest.raises(ValueError, match=f"neuron 2 has {value} among its features"):
            call(features)
    with pytest.raises(ValueError, match=f"neuron 2 has {value}"):
        filter_correlations(features.T)


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


def test_dead_filters_do_not_vary():
    features = np.random.default_rng(0).normal(size=(6, 20)) * 1e-3
    features[1], features[3], features[4] = 0, 0.1, 1 / 3
    assert dead_filters(features).tolist() == [1, 3, 4]
    features[3, 7] += 1e-8  # little, and more than rounding
    assert dead_filters(features).tolist() == [1, 4]
    assert dead_filters(np.ones((3, 1))).tolist() == [0, 1, 2]  # what is alone does not vary


@pytest.mark.parametrize(
    ("squares", "expected"),
    [
        ((1, 1, 1), 3),
        ((3, 1), 16 / 10),
        ((4, 0), 1),
        ((9, 4, 1), 14**2 / 98),
        ((0, 0), 0),
    ],
)
def test_dimensionality_by_hand(squares, expected):
    """Neurons that do not correlate: the eigenvalues are their squared norms."""
    features = np.zeros((len(squares), 2 * len(squares)))
    for i, square in enumerate(squares):
        features[i, 2 * i : 2 * i + 2] = np.sqrt(square / 2), -np.sqrt(square / 2)
    assert effective_dimensionality(features) == pytest.approx(expected)
    assert effective_dimensionality(features + 5) == pytest.approx(expected)


def test_dimensionality_against_eigenvalues():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 3)) @ rng.normal(size=(3, 50)) + 0.3 * rng.normal(size=(12, 50))
    values = np.linalg.eigvalsh(np.cov(features))
    expected = values.sum() ** 2 / (values**2).sum()
    assert 1.5 < expected < 6
    assert effective_dimensionality(features) == pytest.approx(expected)


def test_a_collapse_is_seen():
    """What all filters share must count: without it these would have many dimensions."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=50) + 0.1 * rng.normal(size=(30, 50))
    assert effective_dimensionality(features) < 1.1
    assert effective_dimensionality(features - features.mean(axis=0)) > 15
    assert effective_dimensionality(np.full((4, 5), 0.1)) == 0


def test_magnitudes_of_a_kernel():
    """Filters of one, two and four times the same direction."""
    direction = np.random.default_rng(0).normal(size=(3, 3, 3))
    direction /= np.linalg.norm(direction)
    kernel = np.stack([direction, 2 * direction, 4 * direction], axis=-1)
    found = magnitudes(kernel)
    deviation = np.log(2) * np.sqrt(2 / 3)
    np.testing.assert_allclose(found, (1, 4, deviation))
    np.testing.assert_allclose(magnitudes(np.moveaxis(kernel, -1, 0), neuron_axis=0), found)


def test_a_filter_of_zeros_has_no_logarithm():
    """The spread is that of the two others, by a factor of four; nothing is NaN."""
    kernel = np.array([[0.0, 1.0, 4.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(magnitudes(kernel), (0, 4, np.log(4) / 2))
    assert magnitudes(np.zeros((3, 2))) == (0, 0, 0)


def test_filters_as_pictures():
    """Against the definition, filter by filter; a constant one is grey."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 5)).astype(np.float32)
    kernel[..., 2] = 0.7
    pictures = normalized_filters(kernel)
    assert pictures.shape == (5, 3, 3, 3)
    for j in (0, 1, 3, 4):
        filter_ = kernel[..., j].astype(np.float64)
        expected = (filter_ - filter_.min()) / (filter_.max() - filter_.min())
        np.testing.assert_allclose(pictures[j], expected, atol=1e-12)
    assert (pictures[2] == 0.5).all()
    with pytest.raises(ValueError, match=r"\(height, width, colours, c_out\), got \(3, 5\)"):
        normalized_filters(np.ones((3, 5)))
