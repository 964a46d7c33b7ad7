import numpy as np
import pytest

import lgnn_jax as lgnn
from lgnn_jax.maps.part import Part

MAPS = [lgnn.grid(6, 4), lgnn.grid(5, 4, wrap=True), lgnn.hexagonal(5, 4), lgnn.sphere(30)]


@pytest.mark.parametrize("map", MAPS, ids=str)
def test_a_part_keeps_distances_neighbours_and_outlines(map):
    places = np.random.default_rng(0).permutation(map.count)[:12].tolist()
    part = Part(map, tuple(places))
    assert (part.count, str(part)) == (12, f"12 places of {map}")
    np.testing.assert_array_equal(part.positions, map.positions[places])
    known = {frozenset(pair) for pair in map.edges().tolist()}
    distances, centres, outline, beyond = map.distances(), *map.layout()
    there = part.layout()
    np.testing.assert_array_equal(there.outline, outline)
    found = {tuple(pair) for pair in part.edges().tolist()}
    assert 0 < len(found) < len(known)
    for i, a in enumerate(places):
        np.testing.assert_array_equal(there.centres[i], centres[a])
        for side, b in enumerate(beyond[a]):
            assert there.beyond[i, side] == (places.index(b) if b in places else -1)
        for j, b in enumerate(places):
            assert part.distances()[i, j] == distances[a, b]
            assert ((i, j) in found) == (i < j and frozenset((a, b)) in known)


def test_the_whole_is_a_part():
    map = lgnn.grid(4, 3)
    part = Part(map, tuple(range(12)))
    np.testing.assert_array_equal(part.edges(), map.edges())
    assert part == Part(lgnn.grid(4, 3), tuple(range(12)))
    assert hash(part) != hash(Part(map, tuple(range(11))))


def test_parts_without_neighbours():
    assert Part(lgnn.line(5), (0, 2, 4)).edges().shape == (0, 2)
    assert Part(lgnn.line(5), ()).edges().shape == (0, 2)
