import numpy as np
import pytest

import lgnn_jax as lgnn
from lgnn_jax.analysis.agreement import agreement

TORUS = lgnn.grid(9, 7, wrap=True)  # each place has eight nearest, without ties


def _by_loops(places, other, map, neurons, k):
    """Both numbers, one neuron after the other."""
    distances = map.distances()
    here = {neuron: place for place, neuron in enumerate(places)}
    there = {neuron: place for place, neuron in enumerate(other)}
    pairs = [(a, b) for i, a in enumerate(neurons) for b in neurons[:i]]
    far = [[distances[at[a], at[b]] for a, b in pairs] for at in (here, there)]
    kept = 0
    for a in neurons:
        nearest = [
            set(sorted((b for b in neurons if b != a), key=lambda b: distances[at[a], at[b]])[:k])
            for at in (here, there)
        ]
        kept += len(nearest[0] & nearest[1])
    return np.corrcoef(far)[0, 1], kept / (k * len(neurons))


def _nearly(places, swaps, seed):
    """The same map after some swaps of two neurons."""
    places, rng = places.copy(), np.random.default_rng(seed)
    for _ in range(swaps):
        i, j = rng.choice(len(places), 2, replace=False)
        places[[i, j]] = places[[j, i]]
    return places


@pytest.mark.parametrize("swaps", [0, 5, 15, 200])
def test_against_loops(swaps):
    places = np.random.default_rng(0).permutation(63)
    other = _nearly(places, swaps, seed=1)
    found = agreement(places, other, TORUS, shuffles=1)
    expected = _by_loops(places.tolist(), other.tolist(), TORUS, list(range(63)), 8)
    np.testing.assert_allclose([found.distances.value, found.nearest.value], expected)
    assert found.neighbours == 8


def test_of_some_neurons():
    """A line has ties, but not between the ends of three."""
    places, other = np.arange(9), np.array([0, 2, 1, 3, 4, 5, 8, 7, 6])
    found = agreement(places, other, lgnn.line(9), neurons=[0, 1, 2, 5], shuffles=1)
    # Distances 1 2 5, 1 4, 3 on one map and 2 1 5, 1 3, 4 on the other.
    expected = np.corrcoef([1, 2, 5, 1, 4, 3], [2, 1, 5, 1, 3, 4])[0, 1]
    assert found.distances.value == pytest.approx(expected)
    assert (found.neighbours, found.nearest.value) == (3, 1)


@pytest.mark.parametrize("turn", ["rows", "columns", "both"])
def test_a_turned_or_mirrored_map_is_the_same_map(turn):
    places = np.random.default_rng(0).permutation(48).reshape(8, 6)
    other = {"rows": places[::-1], "columns": places[:, ::-1], "both": places[::-1, ::-1]}[turn]
    found = agreement(places.ravel(), other.ravel(), (8, 6))
    assert (found.distances.value, found.nearest.value) == pytest.approx((1, 1))
    assert (found.distances.p, found.nearest.p) == (1 / 201, 1 / 201)
    square = np.arange(49).reshape(7, 7)
    found = agreement(square.ravel(), np.rot90(square).ravel(), (7, 7), shuffles=1)
    assert (found.distances.value, found.nearest.value) == pytest.approx((1, 1))


def test_a_torus_may_be_shifted():
    places = np.arange(63).reshape(9, 7)
    found = agreement(places.ravel(), np.roll(places, (2, 3), (0, 1)).ravel(), TORUS, shuffles=1)
    assert (found.distances.value, found.nearest.value) == pytest.approx((1, 1))


def test_chance():
    """Of unrelated maps 8 of 62 others are among the nearest; and p is that of chance."""
    rng = np.random.default_rng(0)
    found = [agreement(rng.permutation(63), rng.permutation(63), TORUS, shuffles=19, seed=s)
             for s in range(100)]  # fmt: skip
    shuffled = np.mean([x.nearest.shuffled for x in found])
    assert shuffled == pytest.approx(8 / 62, abs=0.003)
    assert np.mean([x.nearest.value for x in found]) == pytest.approx(8 / 62, abs=0.01)
    assert np.mean([x.distances.value for x in found]) == pytest.approx(0, abs=0.01)
    for name in ("distances", "nearest"):
        assert np.mean([getattr(x, name).p for x in found]) == pytest.approx(0.525, abs=0.1)


def test_many_neurons_are_compared_by_some_of_their_pairs():
    map, places = lgnn.grid(20, 15), np.arange(300)
    other = _nearly(places, 60, seed=0)
    found = agreement(places, other, map, shuffles=1)
    distances = map.distances()
    place = np.argsort(other)
    first, second = np.triu_indices(300, 1)
    expected = np.corrcoef(
        distances[first, second], distances[place][:, place][first, second]
    )[0, 1]  # fmt: skip
    assert found.distances.value == pytest.approx(expected, abs=0.03)
    assert 0.1 < expected < 0.9
    assert agreement(places, places, map, shuffles=1).distances.value == pytest.approx(1)


def test_two_neurons_cannot_disagree():
    found = agreement([0, 1], [1, 0], (2, 1), shuffles=5)
    assert (found.distances.value, found.nearest.value, found.neighbours) == (0, 1, 1)
    assert (found.distances.p, found.nearest.p) == (1, 1)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="must name each of the 6 neurons on map 3x2 once"):
        agreement(np.arange(6), np.zeros(6, int), (3, 2))
    with pytest.raises(ValueError, match="must name each of the 6 neurons on map 3x2 once"):
        agreement(np.arange(5), np.arange(6), (3, 2))
    with pytest.raises(ValueError, match="two or more of the 6 on map 3x2, each once"):
        agreement(np.arange(6), np.arange(6), (3, 2), neurons=[2])


@pytest.mark.parametrize("neurons", [[99, 1], [1, 1, 2], [-1, 2], [True] * 12, [3], [[1, 2]]])
def test_neurons_to_compare_are_some_of_the_map(neurons):
    places = np.arange(12)
    with pytest.raises(ValueError, match="two or more of the 12 on map 4x3, each once"):
        agreement(places, places, (4, 3), neurons=np.array(neurons))
