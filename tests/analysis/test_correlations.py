import numpy as np
import pytest

from lgnn_jax.analysis.correlations import correlation_maps


def _kernel(seed=0):
    return np.random.default_rng(seed).normal(size=(3, 3, 4, 24))


def test_rows_of_the_gram_matrix_on_the_map():
    """Against numpy's correlation coefficients."""
    kernel = _kernel()
    found = correlation_maps(kernel, (6, 4), [0, 11])
    expected = np.corrcoef(kernel.reshape(-1, 24).T)
    for place, values in zip(found.places, found.values, strict=True):
        wanted = expected[place]
        assert values[place] == 0
        wanted[place] = 0
        np.testing.assert_allclose(values, wanted, atol=1e-12)


def test_the_threshold_is_a_share_of_all_pairs():
    kernel = _kernel()
    found = correlation_maps(kernel, (6, 4), [5], share=0.1)
    pairs = np.corrcoef(kernel.reshape(-1, 24).T)[np.triu_indices(24, 1)]
    assert (pairs > found.threshold).mean() == pytest.approx(0.1, abs=1 / len(pairs))


def test_neighbours_that_are_alike():
    """The filter at [2, 2] is copied to the right, below, and two places to the left."""
    kernel = _kernel()
    for row, column in ((2, 3), (3, 2), (2, 0)):
        kernel[..., 4 * row + column] = kernel[..., 4 * 2 + 2]
    found = correlation_maps(kernel, (6, 4), [10, 20], share=0.02)
    assert set(found.neighbours[0]) == {11, 14}
    assert found.neighbours[1] == ()


def test_the_neuron_axis():
    kernel = _kernel()
    np.testing.assert_array_equal(
        correlation_maps(np.moveaxis(kernel, -1, 0), (6, 4), [5], neuron_axis=0).values,
        correlation_maps(kernel, (6, 4), [5]).values,
    )


def test_a_constant_filter_is_like_none():
    kernel = _kernel()
    kernel[..., 5] = 0
    found = correlation_maps(kernel, (6, 4), [5, 0])
    assert np.isfinite(found.values).all()
    assert not found.values[0].any()
    assert 5 not in found.neighbours[1]
    dead = correlation_maps(np.zeros((9, 24)), (6, 4), [5])
    assert dead.neighbours == ((),)
    opposite = np.stack([np.arange(9.0), -np.arange(9.0)], axis=1)
    assert correlation_maps(opposite, (2, 1), [0]).neighbours == ((),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map": (5, 5)}, r"map 5x5 does not fit 24 filters"),
        ({"places": [24]}, r"place 24 is not on map 6x4, from 0 to 23"),
        ({"places": [-1]}, r"place -1 is not on"),
        ({"share": 0.0}, r"share must be in \(0, 1\), got 0"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        correlation_maps(_kernel(), **{"map": (6, 4), "places": [5], **options})
