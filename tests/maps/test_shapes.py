"""Maps against geometry worked out by hand, and by brute force in float64."""

import dataclasses
import itertools

import numpy as np
import pytest

import lgnn_jax as lgnn
from lgnn_jax.maps.shapes import Map, nearest, pairs_within, regions

MAPS = [
    lgnn.line(7),
    lgnn.ring(7),
    lgnn.ring(2),
    lgnn.grid(1),
    lgnn.grid(6, 4),
    lgnn.grid(6, 4, wrap=True),
    lgnn.grid(5, 4, wrap=(False, True)),
    lgnn.grid(3, 2, 4),
    lgnn.grid(3, 4, 3, wrap=True),
    lgnn.hexagonal(5, 4),
    lgnn.hexagonal(6, 4, wrap=True),
    lgnn.hexagonal(2, 1, wrap=True),
    lgnn.sphere(1),
    lgnn.sphere(2),
    lgnn.sphere(60),
]


@pytest.mark.parametrize("map", MAPS, ids=str)
def test_what_every_map_keeps(map):
    distances, edges, laplacian = map.distances(), map.edges(), map.laplacian()
    assert distances.shape == laplacian.shape == (map.count, map.count)
    assert len(map.positions) == map.count
    np.testing.assert_array_equal(distances, distances.T)
    assert not distances.diagonal().any()
    assert (distances + np.eye(map.count) > 0).all()  # no two places are one
    # No way around is shorter.
    around = (distances[:, :, None] + distances[None]).min(axis=1)
    np.testing.assert_allclose(around, distances, atol=1e-9)
    assert (edges[:, 0] < edges[:, 1]).all()
    assert len(np.unique(edges, axis=0)) == len(edges)
    np.testing.assert_allclose(laplacian, laplacian.T)
    np.testing.assert_allclose(laplacian.sum(axis=0), 0, atol=1e-12)
    assert np.linalg.eigvalsh(laplacian)[0] > -1e-9
    if map.count > 1:
        assert distances[*edges.T].mean() == pytest.approx(1, abs=0.25)
        assert regions(map, np.ones(map.count))[0].tolist() == list(range(map.count))
    assert hash(map) == hash(type(map)(*vars(map).values()))
    assert map == type(map)(*vars(map).values())
    centres, outline, beyond = map.layout()
    assert centres.shape == (map.count, 2)
    assert outline.shape[1] == 2
    assert beyond.shape == (map.count, len(outline))


@pytest.mark.parametrize("map", [m for m in MAPS if not str(m).startswith("sphere")], ids=str)
def test_neighbours_are_those_with_nothing_between(map):
    """What a shape says of its edges is what follows for any shape from its distances."""
    known = {tuple(pair) for pair in map.edges().tolist()}
    assert known == {tuple(pair) for pair in Map.edges(map).tolist()}


def _torus(m, n):
    """Distances, place by place."""
    found = np.zeros((m * n, m * n))
    for i, j in itertools.product(range(m * n), repeat=2):
        (a, b), (c, d) = divmod(i, n), divmod(j, n)
        images = itertools.product((c - m, c, c + m), (d - n, d, d + n))
        found[i, j] = min(np.hypot(a - x, b - y) for x, y in images)
    return found


def test_a_torus():
    map = lgnn.grid(8, 4, wrap=True)
    np.testing.assert_allclose(map.distances(), _torus(8, 4), rtol=1e-15)
    touching = {(i, j) for i, j in zip(*np.nonzero(_torus(8, 4) == 1), strict=True) if i < j}
    assert {tuple(pair) for pair in map.edges().tolist()} == touching
    assert len(touching) == 2 * 32
    assert (map.laplacian().diagonal() == 4).all()


def test_hexagons_that_wrap():
    """All places are alike: six neighbours, and at the square root of 3 six more."""
    map = lgnn.hexagonal(6, 8, wrap=True)
    counts = [np.unique(row.round(9), return_counts=True) for row in map.distances()]
    for distances, count in counts:
        np.testing.assert_allclose(distances[:4], [0, 1, np.sqrt(3), 2], rtol=1e-9)
        assert count[:4].tolist() == [1, 6, 6, 6]


def test_hexagons_within():
    map = lgnn.hexagonal(3, 3)
    assert np.bincount(map.edges().ravel()).tolist() == [2, 4, 3, 5, 6, 3, 2, 4, 3]
    apart = map.positions[:, None] - map.positions
    np.testing.assert_allclose(map.distances(), np.hypot(*apart.T).T, rtol=1e-12)


@pytest.mark.parametrize("count", [40, 200, 512])
def test_a_sphere(count):
    """Places are spread evenly, neighbours lie about 1 apart, six of them around most."""
    map = lgnn.sphere(count)
    unit = map.positions / map.radius
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1)
    np.testing.assert_allclose(unit.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(unit.T @ unit / count, np.eye(3) / 3, atol=0.01)
    angles = np.arccos(np.clip(unit @ unit.T, -1, 1))
    np.testing.assert_allclose(map.distances(), map.radius * angles, atol=1e-6)
    neighbours = np.bincount(map.edges().ravel(), minlength=count)
    assert set(neighbours.tolist()) <= {4, 5, 6, 7}
    assert neighbours.mean() == pytest.approx(6, abs=0.8)


@pytest.mark.parametrize("count", [200, 512])
def test_the_laplacian_of_a_sphere(count):
    """Its eigenvalues in theory: l (l + 1) / radius^2, 2 l + 1 times."""
    map = lgnn.sphere(count)
    values = np.linalg.eigvalsh(map.laplacian())[:9] * map.radius**2
    np.testing.assert_allclose(values, [0, 2, 2, 2, 6, 6, 6, 6, 6], rtol=0.06, atol=1e-9)


@pytest.mark.parametrize(
    "map", [lgnn.grid(21, 21), lgnn.hexagonal(25, 21), lgnn.grid(9, 9, 9), lgnn.ring(41)], ids=str
)
def test_what_spreads_by_the_laplacian_has_a_width(map):
    """The variance of exp(-t L) grows by 2 t along each dimension."""
    middle = int(np.linalg.norm(map.positions - map.positions.mean(axis=0), axis=1).argmin())
    rate = -map.laplacian()[middle] @ np.square(map.positions - map.positions[middle])
    np.testing.assert_allclose(rate, 2)


def test_the_nearest_share_what_is_left():
    shares = nearest(lgnn.grid(3, 3), 5)
    np.testing.assert_allclose(shares.sum(axis=1), 5)
    np.testing.assert_allclose(shares[4], [0.25, 1, 0.25, 1, 0, 1, 0.25, 1, 0.25])
    np.testing.assert_allclose(shares[0], [0, 1, 0.5 + 0.5, 1, 1, 0, 1, 0, 0])
    np.testing.assert_allclose(nearest(lgnn.grid(4, 4, wrap=True), 4).sum(axis=0), 4)


def test_pairs_as_near_as_asked():
    pairs = {tuple(pair) for pair in lgnn.grid(3, 2).edges().tolist()}
    assert pairs == {(0, 2), (1, 3), (2, 4), (3, 5), (0, 1), (2, 3), (4, 5)}
    assert {tuple(p) for p in pairs_within(lgnn.grid(3, 2), 1).tolist()} == pairs
    touching = {tuple(p) for p in pairs_within(lgnn.grid(3, 2), 1.5).tolist()}
    assert touching == pairs | {(0, 3), (2, 5), (1, 2), (3, 4)}
    assert len(lgnn.grid(32, 16).edges()) == 31 * 16 + 32 * 15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lgnn.grid(), "one to three sides"),
        (lambda: lgnn.grid(2, 2, 2, 2), "one to three sides, .* got 2x2x2x2"),
        (lambda: lgnn.grid(0, 4), "each at least 1, got 0x4"),
        (lambda: lgnn.grid(2.5, 4), "whole numbers, got 2.5x4"),
        (lambda: lgnn.grid(4, 4, wrap=(True,)), "one for each of 2 sides"),
        (lambda: lgnn.hexagonal(5, 4, wrap=True), "even number of rows, got 5"),
        (lambda: lgnn.hexagonal(0, 4), "each at least 1, got 0x4"),
        (lambda: lgnn.hexagonal("5", 4), "whole numbers"),
        (lambda: lgnn.sphere(0), "at least 1, got 0"),
        (lambda: lgnn.sphere(1.5), "whole number, got 1.5"),
        (lambda: lgnn.ring(-1), "at least 1, got -1"),
    ],
)
def test_maps_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("map", MAPS, ids=str)
def test_beyond_a_side_lies_who_has_this_place_beyond_the_opposite_one(map):
    _, outline, beyond = map.layout()
    half = len(outline) // 2
    np.testing.assert_allclose(np.roll(outline, half, axis=0), -outline, atol=1e-12)
    for place, others in enumerate(beyond.tolist()):
        for side, other in enumerate(others):
            if other not in (-1, place):
                assert beyond[other, (side + half) % len(outline)] == place


@pytest.mark.parametrize("map", [m for m in MAPS if not str(m).startswith("sphere")], ids=str)
def test_beyond_the_sides_are_neighbours(map):
    """All of those on paper, with both sides of a pair; of three dimensions, those in a slice."""
    _, _, beyond = map.layout()
    pairs = {
        tuple(sorted((place, other)))
        for place, others in enumerate(beyond.tolist())
        for other in others
        if other not in (-1, place)
    }
    sides = getattr(map, "sides", ())
    in_slice = sides[1] * sides[2] if len(sides) == 3 else map.count
    edges = {(i, j) for i, j in map.edges().tolist() if i // in_slice == j // in_slice}
    assert pairs == edges


@pytest.mark.parametrize("count", [12, 100, 512])
def test_the_cells_of_a_sphere_fill_its_paper(count):
    """Each has its share of the area, and the step over a side leads to the place beyond it."""
    map = lgnn.sphere(count)
    centres, outline, beyond = map.layout()
    following = np.roll(outline, -1, axis=0)
    assert _area(outline) == pytest.approx(4 * np.pi * map.radius**2 / count)
    around = 2 * np.pi * map.radius
    for place, side in itertools.product(range(count), range(6)):
        other = beyond[place, side]
        reached = centres[place] + outline[side] + following[side]
        if other == place:  # beyond a pole
            assert not 0 < reached[0] < 2 * map.radius
        else:
            way = reached - centres[other]
            assert way[0] == pytest.approx(0, abs=1e-9)
            assert way[1] / around == pytest.approx(round(way[1] / around), abs=1e-9)


def _area(corners):
    """Of a polygon, by Gauss's formula."""
    following = np.roll(corners, -1, axis=0)
    return abs((corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0]).sum()) / 2


class _Strip(Map):
    """A shape that says nothing but where its places are: three rows, most of it edge."""

    count = 30

    def __str__(self):
        return "strip"

    @property
    def positions(self):
        return np.stack(np.divmod(np.arange(30), 10), axis=1).astype(float)


def test_a_laplacian_by_distance_has_its_width_away_from_the_edge():
    """Places at an edge have fewer around them: they are not to widen the others' reach."""
    map = _Strip()
    rate = -map.laplacian() @ np.square(map.positions - map.positions[15])
    assert rate[15].sum() == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", "4", r"count must be a whole number, at least 1, got '4'"),
        ("count", 0, "count must be a whole number, at least 1, got 0"),
        (
            "positions",
            np.zeros(4),
            r"positions must be an array \(4, dimensions\), got shape \(4,\)",
        ),
        ("positions", np.zeros((3, 2)), r"positions must be .* got shape \(3, 2\)"),
        ("positions", None, "positions must be an array"),
        ("positions", np.full((4, 2), np.nan), "positions must be finite numbers"),
        ("positions", np.zeros((4, 2)), r"distances\(\) must be finite, symmetric"),
        ("positions", 9 * np.eye(4), "about 1 to the nearest place, got 12.7"),
    ],
)
def test_shapes_that_do_not_keep_their_promises(name, value, message):
    @dataclasses.dataclass(frozen=True)
    class Mine(Map):
        count: int = 4

        @property
        def positions(self):
            return np.arange(4.0)[:, None]

        def __str__(self):
            return "mine"

    assert lgnn.LayerMap(Mine()).count == 4
    if name == "count":
        map = Mine(value)
    else:
        map = type("Worse", (Mine,), {name: property(lambda self: value)})()
    with pytest.raises(ValueError, match=message) as error:
        lgnn.LayerMap(map)
    assert len(str(error.value).splitlines()) == 1


def test_places_closer_than_squares_have_smaller_ones_on_paper():
    class Rows(_Strip):
        """Triangles: rows are sqrt(3) / 2 apart."""

        @property
        def positions(self):
            row, column = np.divmod(np.arange(30), 10)
            return np.stack([row * np.sqrt(0.75), column + row % 2 / 2], axis=1)

    assert np.ptp(Rows().layout().outline, axis=0) == pytest.approx([np.sqrt(0.75)] * 2)
    assert np.ptp(_Strip().layout().outline, axis=0).tolist() == [1, 1]
