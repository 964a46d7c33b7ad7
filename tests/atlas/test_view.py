import numpy as np
import pytest

from lgnn_jax.atlas.view import part_around, whole
from lgnn_jax.maps.grid import grid, line, ring
from lgnn_jax.maps.hexagonal import hexagonal
from lgnn_jax.maps.sphere import sphere


def _rows(view):
    return view.places.reshape(view.block).tolist()


def test_a_part_of_a_grid_ends_at_its_edges():
    view = part_around((6, 4), [0, 5], margin=1)
    assert _rows(view) == [[0, 1, 2], [4, 5, 6], [8, 9, 10]]
    assert view.box == (-0.5, -0.5, 2.5, 2.5)
    assert part_around((6, 4), [13, 14], margin=0).box == (2.5, 0.5, 3.5, 2.5)
    assert part_around((6, 4), [9], margin=9).places.tolist() == list(range(24))


def test_a_part_of_a_torus_goes_on_across_its_seams():
    torus = grid(8, 4, wrap=True)
    view = part_around(torus, [0, 28, 3], margin=0)  # rows 7 and 0, columns 3 and 0
    assert _rows(view) == [[31, 28], [3, 0]]
    assert view.centres.tolist() == [[7, 3], [7, 4], [8, 3], [8, 4]]
    view = part_around(torus, [0], margin=1)
    assert _rows(view) == [[31, 28, 29], [3, 0, 1], [7, 4, 5]]


def test_a_part_has_no_place_twice():
    """However wide the margin is; and where nothing crosses the seam, it stays where it is."""
    for chosen, first in (([5, 7], 4), ([5], 4), ([4, 7], 6)):
        view = part_around(grid(8, 4, wrap=(False, True)), chosen, margin=3)
        assert sorted(view.places.tolist()) == sorted(set(view.places.tolist()))
        assert view.block == (5, 4)
        assert view.places[4] == first  # of row 1; as much before as after, if it crosses
    assert part_around(ring(4), [1, 3], margin=0).places.tolist() == [1, 2, 3]


def test_a_part_of_a_line_and_of_three_dimensions():
    assert part_around(line(9), [4], margin=1).places.tolist() == [3, 4, 5]
    view = part_around(grid(3, 3, 3), [13], margin=0)  # in the very middle
    assert view.places.tolist() == [13]
    view = part_around(grid(3, 3, 3, wrap=True), [0, 2], margin=0)  # columns 2 and 0
    assert view.places.tolist() == [2, 0]
    view = part_around(grid(4, 4, 3), [0], margin=1)  # two slices of two by two, a gap between
    assert view.places.tolist() == [0, 1, 3, 4, 12, 13, 15, 16]
    assert view.centres[:4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert view.centres[4].tolist() == [0, 3]


@pytest.mark.parametrize("place", [0, 5, 21, 47])
def test_a_part_of_hexagons_that_wrap_is_as_far_apart_as_on_the_map(place):
    map = hexagonal(8, 6, wrap=True)
    view = part_around(map, [place], margin=1)
    assert len(view.places) == 7  # it and its six neighbours
    apart = np.linalg.norm(view.centres[:, None] - view.centres, axis=-1)
    np.testing.assert_allclose(apart, map.distances()[np.ix_(view.places, view.places)], atol=1e-9)


def test_a_part_of_hexagons_with_edges():
    view = part_around(hexagonal(8, 6), [0], margin=1)
    assert view.places.tolist() == [0, 1, 6]  # 5 and 42 are at the other ends
    np.testing.assert_allclose(view.centres, [[0, 0], [0, 1], [np.sqrt(3) / 2, 0.5]], atol=1e-9)


def test_a_part_of_a_sphere_goes_on_once_it_is_around():
    """About the equator paper is true to lengths, and the part is all together."""
    map = sphere(200)
    angles = np.arctan2(*map.positions[:, 1::-1].T)
    middle = 80 + int(np.abs(angles[80:120]).argmin())  # where the paper is cut
    view = part_around(map, [middle], margin=2)
    on_map = map.distances()[np.ix_(view.places, view.places)]
    on_paper = np.linalg.norm(view.centres[:, None] - view.centres, axis=-1)
    around = on_map > 0
    assert (np.abs(on_paper / np.where(around, on_map, 1) - 1)[around] < 0.4).all()
    as_it_lies = whole(map).centres[view.places]
    assert np.ptp(as_it_lies[:, 1]) > np.pi * map.radius  # it lies at both ends
    turns = (view.centres - as_it_lies) / (2 * np.pi * map.radius)
    np.testing.assert_allclose(turns, turns.round(), atol=1e-9)
    assert set(np.abs(turns[:, 1]).round()) == {0, 1}


@pytest.mark.parametrize("map", [grid(6, 4), ring(9), hexagonal(4, 3), sphere(30)], ids=str)
def test_the_whole_of_a_map_is_every_place_where_its_layout_has_it(map):
    view = whole(map)
    assert view.places.tolist() == list(range(map.count))
    np.testing.assert_array_equal(view.centres, map.layout().centres)
