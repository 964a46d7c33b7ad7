import numpy as np
import pytest

import lgnn_jax as lgnn
from lgnn_jax.analysis.class_regions import class_regions
from lgnn_jax.maps.shapes import regions

MAPS = [lgnn.grid(8, 6), lgnn.grid(6, 8, wrap=True), lgnn.hexagonal(8, 6), lgnn.ring(48)]


def _by_loops(means, map, places):
    """The three numbers of each class, one class and one pair at a time."""
    neurons = means.shape[1]
    responses = np.zeros(means.shape)
    for j in range(neurons):
        if np.ptp(means[:, j]) > 0:
            responses[:, j] = (means[:, j] - means[:, j].mean()) / means[:, j].std()
    distances = map.distances()
    of_all = np.mean([distances[i, j] for i in range(neurons) for j in range(neurons) if i != j])
    strongest = max(2, round(0.05 * neurons))
    found = []
    for row in responses[:, places]:
        z = row - row.mean()
        moran = np.mean([z[i] * z[j] for i, j in map.edges()]) / np.mean(z**2)
        strong = sorted(range(neurons), key=lambda i: -row[i])[:strongest]
        left, largest = set(strong), 0
        while left:
            patch, new = set(), {left.pop()}
            while new:
                patch |= new
                new = {j for j in left if any(distances[i, j] < 1.5 for i in new)}
                left -= new
            largest = max(largest, len(patch))
        apart = np.mean([distances[i, j] for i in strong for j in strong if i != j])
        found.append((moran, largest / strongest, apart / of_all))
    return np.transpose(found)


@pytest.mark.parametrize("map", MAPS, ids=str)
def test_against_loops(map):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(7, 48)).cumsum(axis=1)
    means[:, 5] = 0.1
    places = rng.permutation(48)
    found = class_regions(means, map, places)
    expected = _by_loops(means, map, places)
    np.testing.assert_allclose([found.morans_i, found.patch, found.spread], expected, rtol=1e-9)
    in_order = class_regions(means[:, places], map)
    np.testing.assert_array_equal(in_order.patch, found.patch)


def test_a_disc_is_one_patch():
    """Of 20x20 places 20 are strong: a disc, two halves of it far apart, or scattered."""
    map = lgnn.grid(20, 20)
    order = np.argsort(map.distances()[126], kind="stable")
    disc, halves = order[:20], [*order[:10], *(399 - order[:10])]
    scattered = np.random.default_rng(1).permutation(400)[:20]
    means = np.zeros((3, 400))
    for row, strong in zip(means, (disc, halves, scattered), strict=True):
        row[strong] = 1
    found = class_regions(means, map)
    assert found.strongest == 20
    assert found.patch[:2].tolist() == [1, 0.5]
    assert found.patch[2] < 0.3
    assert found.spread[0] < 0.3 < found.spread[1]
    assert found.spread[2] == pytest.approx(1, abs=0.15)
    assert found.morans_i[0] > found.morans_i[1] > 0.3
    assert len(regions(map, means[0] > 0)) == 1


def test_without_order_the_means_are_those_of_chance():
    """Moran's I is -1 / 399 on average, and spread 1."""
    rng = np.random.default_rng(0)
    found = class_regions(rng.normal(size=(300, 400)), (20, 20))
    assert found.morans_i.mean() == pytest.approx(-1 / 399, abs=4 * 0.036 / np.sqrt(300))
    assert found.spread.mean() == pytest.approx(1, abs=0.02)
    assert found.patch.mean() < 0.2


def test_neurons_that_all_tie_make_no_patch():
    """A layer in which two neurons of 400 tell classes apart: the rest is ranked by chance."""
    means = np.zeros((2, 400))
    means[0, [0, 399]] = 1
    found = class_regions(means, (20, 20))
    assert (found.patch < 0.3).all()
    dead = class_regions(np.full((3, 400), 0.1), (20, 20))
    assert dead.morans_i.tolist() == [0, 0, 0]
    assert (dead.patch < 0.3).all()


def test_two_neurons():
    found = class_regions(np.array([[1.0, 0.0], [0.0, 1.0]]), (2, 1))
    assert found.morans_i.tolist() == [-1, -1]
    assert (found.patch.tolist(), found.spread.tolist()) == ([1, 1], [1, 1])


def test_what_does_not_fit():
    means = np.zeros((3, 12))
    with pytest.raises(ValueError, match="3x3 has 9 places, and means have 12 neurons"):
        class_regions(means, (3, 3))
    with pytest.raises(ValueError, match="must name each of 12 neurons once"):
        class_regions(means, (4, 3), np.zeros(12, int))
    for few in (means[:1], means[:, :1], means[0]):
        with pytest.raises(ValueError, match=r"at least 2 of both, got \("):
            class_regions(few, (12, 1))
    means[1, 7] = np.nan
    with pytest.raises(ValueError, match="neuron 7 are not finite"):
        class_regions(means, (4, 3))
