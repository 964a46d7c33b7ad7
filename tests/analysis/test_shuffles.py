import numpy as np
import pytest

from lgnn_jax.analysis.shuffles import AgainstShuffles, against_shuffles, shuffled_maps


@pytest.mark.parametrize(
    ("value", "p"), [(3.5, 1 / 5), (3.0, 2 / 5), (1.5, 3 / 5), (0.0, 1.0), (-1.0, 1.0)]
)
def test_p_counts_the_shuffles_that_are_as_large(value, p):
    assert AgainstShuffles(value, np.array([0.0, 1.0, 2.0, 3.0])).p == pytest.approx(p)


def test_z_is_in_deviations_of_the_shuffles():
    """By hand: mean 4, squares of the differences 9, 1, 1 and 9, so a deviation of sqrt(5)."""
    figure = AgainstShuffles(9.0, np.array([1.0, 3.0, 5.0, 7.0]))
    assert figure.z == pytest.approx(5 / np.sqrt(5))


def test_rounding_is_no_difference():
    thirds = np.array([0.1 + 0.2, 0.3, 0.3 - 1e-16])
    figure = AgainstShuffles(0.3, thirds)
    assert thirds.std() > 0
    assert figure.z is None
    assert figure.p == 1
    assert AgainstShuffles(thirds.max(), thirds).p == 1
    small = AgainstShuffles(3e-20, np.array([1e-20, 2e-20]))  # small, and no rounding
    assert small.p == pytest.approx(1 / 3)
    assert small.z == pytest.approx(3)


def test_where_nothing_differs_there_is_no_z():
    assert AgainstShuffles(0.0, np.zeros(5)).z is None
    assert AgainstShuffles(2.0, np.array([1.0])).z is None
    assert AgainstShuffles(2.0, np.array([1.0])).p == 0.5


def test_maps_are_permutations_by_seed():
    maps = shuffled_maps(12, (4, 3), 50, 7)
    assert all(sorted(neurons) == list(range(12)) for neurons in maps)
    assert len({tuple(neurons) for neurons in maps}) == 50
    np.testing.assert_array_equal(maps, shuffled_maps(12, (4, 3), 50, 7))
    assert (np.array(maps) != shuffled_maps(12, (4, 3), 50, 8)).any()


def test_the_value_is_that_of_the_own_order():
    maps = shuffled_maps(6, (3, 2), 20, 0)
    figure = against_shuffles(lambda neurons: 10 * neurons[0] + neurons[1], maps)
    assert figure.value == 1
    assert figure.shuffled.tolist() == [10 * neurons[0] + neurons[1] for neurons in maps]


@pytest.mark.parametrize(
    ("count", "dims", "shuffles", "message"),
    [
        (9, (4, 2), 1, r"map 4x2 does not fit 9 filters: use \(3, 3\)"),
        (9, (-3, -3), 1, "each at least 1, got -3x-3"),
        (1, (1, 1), 1, r"map 1x1 holds a single neuron"),
        (4, (2, 2), 0, "shuffles must be at least 1, got 0"),
    ],
)
def test_maps_that_cannot_be(count, dims, shuffles, message):
    with pytest.raises(ValueError, match=message):
        shuffled_maps(count, dims, shuffles, 0)
