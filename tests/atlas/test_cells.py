"""What is drawn for each place of a map, read back from the axes."""

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from lgnn_jax.atlas.plots.cells import border, heat_map, mosaic
from lgnn_jax.atlas.view import part_around, whole
from lgnn_jax.maps.grid import grid, line, ring
from lgnn_jax.maps.hexagonal import hexagonal
from lgnn_jax.maps.sphere import sphere


def _where(map, place):
    """The middle of a place on paper, right and down, from what the map is."""
    name = str(map)
    if "hexagonal" in name:
        row, column = divmod(place, map.columns)
        return column + 0.5 * (row % 2), row * np.sqrt(3) / 2
    if "sphere" in name:
        x, y, height = map.positions[place]
        return map.radius * (np.arctan2(y, x) % (2 * np.pi)), map.radius - height
    if len(map.sides) == 1:
        return place, 0
    *slices, row, column = np.unravel_index(place, map.sides)
    return column + sum(slices) * (map.sides[-1] + 1), row


MAPS = [
    grid(8, 4, wrap=True), ring(32), line(5), grid(4, 4, 3), hexagonal(8, 6),
    hexagonal(8, 6, wrap=True), sphere(100), sphere(12),
]  # fmt: skip


def _axes():
    return Figure(figsize=(6, 6)).add_axes((0.1, 0.1, 0.8, 0.8))


def _value_at(ax, point):
    """The value that is drawn at a point: of a pixel, or of the polygon around it."""
    if ax.get_images():
        (image,) = ax.get_images()
        left, right, bottom, top = image.get_extent()
        values = image.get_array()
        row = int((point[1] - top) / (bottom - top) * values.shape[0])
        column = int((point[0] - left) / (right - left) * values.shape[1])
        return values[row, column]
    (polygons,) = ax.findobj(PolyCollection)
    (found,) = [i for i, p in enumerate(polygons.get_paths()) if p.contains_point(point)]
    return polygons.get_array()[found]


@pytest.mark.parametrize("map", MAPS, ids=str)
def test_each_place_has_the_colour_of_its_value(map):
    values = np.random.default_rng(0).normal(size=map.count)
    ax = _axes()
    drawn = heat_map(ax, np.ma.array(values, mask=np.arange(map.count) == 3), whole(map), 2.0)
    assert drawn.get_clim() == (-2, 2)
    for place in range(map.count):
        found = _value_at(ax, _where(map, place))
        assert found is np.ma.masked if place == 3 else found == values[place]
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    places = np.array([_where(map, place) for place in range(map.count)])
    assert (places > [left, top]).all()
    assert (places < [right, bottom]).all()
    assert drawn.cmap.get_bad()[:3] == pytest.approx((0.6, 0.6, 0.6), abs=0.01)
    white = matplotlib.colormaps["RdBu_r"](0.5)
    assert drawn.to_rgba(0.0) == pytest.approx(white)


def test_hexagons_are_hexagons():
    """Regular ones, that fill the map without a gap."""
    ax = _axes()
    heat_map(ax, np.zeros(48), whole(hexagonal(8, 6)), 1.0)
    (polygons,) = ax.findobj(PolyCollection)
    for path in polygons.get_paths():
        corners = path.vertices[:6]
        sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
        np.testing.assert_allclose(sides, 1 / np.sqrt(3))
        np.testing.assert_allclose(np.linalg.norm(corners - corners.mean(axis=0), axis=1), sides)


@pytest.mark.parametrize("map", [m for m in MAPS if m != grid(8, 4, wrap=True)], ids=str)
def test_each_picture_lies_at_its_place(map):
    greys = np.arange(map.count) / map.count
    pictures = np.broadcast_to(greys[:, None, None, None], (map.count, 8, 8, 1))
    ax = _axes()
    mosaic(ax, pictures, whole(map))
    assert len(ax.get_images()) == map.count
    cells = ax.findobj(PolyCollection)[0].get_paths()
    for place, image in enumerate(ax.get_images()):
        left, right, bottom, top = image.get_extent()
        middle = (left + right) / 2, (bottom + top) / 2
        np.testing.assert_allclose(middle, _where(map, place), atol=1e-9)
        np.testing.assert_allclose(image.get_array()[12, 12], greys[place], rtol=1e-6)
        # It reaches to the outline of its place, and not beyond.
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        inside = middle + (corners - middle) * 0.999
        assert cells[place].contains_points(inside).all()
        assert not cells[place].contains_points(middle + (corners - middle) * 1.001).all()


def _sides(ax):
    return [line.get_xydata() for line in ax.lines]


def _is_closed(sides):
    """Whether every corner of an outline ends as many sides as it begins, two or four in all."""
    corners = np.concatenate(sides).round(6)
    return set(np.unique(corners, axis=0, return_counts=True)[1]) <= {2, 4}


@pytest.mark.parametrize(
    ("map", "places", "sides"),
    [
        (grid(6, 4), [5, 6, 10], 8),
        (line(9), [3, 4], 6),
        (grid(4, 4, 3), [0, 12], 8),  # one above the other, but on two slices of paper
        (hexagonal(8, 6), [14], 6),
        (hexagonal(8, 6), [14, 15], 10),
        (hexagonal(8, 6), [19, 13, 14, 18, 20, 25, 26], 18),  # one with its six neighbours
    ],
    ids=str,
)
def test_a_region_is_outlined_by_the_sides_towards_others(map, places, sides):
    ax = _axes()
    border(ax, places, whole(map), "black", 1.0)
    assert len(ax.lines) == sides
    assert _is_closed(_sides(ax))


def test_the_six_around_a_hexagon_have_no_border_between_them():
    map = hexagonal(8, 6)
    around = np.flatnonzero(map.distances()[19] < 1.1).tolist()
    assert around == [13, 14, 18, 19, 20, 25, 26]


@pytest.mark.parametrize(
    ("map", "places", "sides", "open_at"),
    [
        (grid(8, 4, wrap=True), [0, 28], 6, "top bottom"),  # rows 0 and 7
        (grid(8, 4, wrap=True), [4, 7], 6, "left right"),  # columns 0 and 3
        (grid(8, 4, wrap=True), [0, 3, 28, 31], 8, "top bottom left right"),  # four corners
        (grid(8, 4, wrap=(True, False)), [4, 7], 8, ""),
        (grid(8, 4), [0, 28], 8, ""),
        (ring(32), [0, 31], 6, "left right"),
        (line(32), [0, 31], 8, ""),
    ],
    ids=str,
)
def test_an_outline_stays_open_where_its_places_meet_across_a_seam(map, places, sides, open_at):
    view = whole(map)
    ax = _axes()
    border(ax, places, view, "black", 1.0)
    assert len(ax.lines) == sides
    top, left, bottom, right = view.box
    for name, axis, end in (
        ("top", 1, top), ("bottom", 1, bottom), ("left", 0, left), ("right", 0, right)
    ):  # fmt: skip
        on_edge = [side for side in _sides(ax) if (side[:, axis] == end).all()]
        at_edge = [p for p in places if abs(_where(map, p)[axis] - end) == 0.5]
        assert len(on_edge) == (0 if name in open_at.split() else len(at_edge)), name


@pytest.mark.parametrize("place", [0, 5, 42, 30])
def test_an_outline_across_the_seams_of_hexagons(place):
    """Of one with its six neighbours, wherever these lie: 18 sides; and closed on a part."""
    map = hexagonal(8, 6, wrap=True)
    region = np.flatnonzero(map.distances()[place] < 1.1)
    whole_, part = _axes(), _axes()
    border(whole_, region, whole(map), "black", 1.0)
    border(part, region, part_around(map, region, margin=0), "black", 1.0)
    assert len(region) == 7
    assert len(whole_.lines) == len(part.lines) == 18
    assert not _is_closed(_sides(whole_))
    assert _is_closed(_sides(part))


def test_an_outline_where_a_sphere_is_cut_open():
    map = sphere(200)
    angles = np.arctan2(*map.positions[:, 1::-1].T)
    middle = 80 + int(np.abs(angles[80:120]).argmin())
    region = [middle, *map.layout().beyond[middle].tolist()]
    assert len(set(region)) == 7
    assert map.distances()[middle, region].max() < 1.5  # all of them touch it
    whole_, part = _axes(), _axes()
    border(whole_, region, whole(map), "black", 1.0)
    border(part, region, part_around(map, region, margin=0), "black", 1.0)
    assert len(whole_.lines) == len(part.lines) == 18
    assert not _is_closed(_sides(whole_))
    assert _is_closed(_sides(part))


def test_borders_are_inside_their_cells():
    ax = _axes()
    view = whole(hexagonal(4, 4))
    border(ax, [5], view, "black", 1.0)
    inside, outside = (ax.transData.transform(_where(hexagonal(4, 4), p)) for p in (5, 6))
    assert len(ax.lines) == 6
    for side in ax.lines:
        clip = side.get_clip_path().get_fully_transformed_path()
        assert clip.contains_point(inside)
        assert not clip.contains_point(outside)


@pytest.mark.parametrize(
    ("map", "chosen", "columns", "rows"),
    [
        (grid(8, 4, wrap=True), [0], "3 0 1", "7 0 1"),
        (hexagonal(8, 6, wrap=True), [0], "5 0 1", "7 0 1"),
        (ring(32), [0], "31 0 1", ""),
        (grid(4, 4, 3), [0], "0 1", ""),  # slices
        (sphere(30), [3], "", ""),
    ],
    ids=str,
)
def test_numbers_along_the_axes_are_those_of_the_map(map, chosen, columns, rows):
    view = part_around(map, chosen, margin=1)
    ax = _axes()
    mosaic(ax, np.zeros((len(view.places), 4, 4, 1)), view)

    def shown(axis, low, high):
        axis.figure.draw_without_rendering()
        labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        return " ".join(t.get_text() for x, t in labels if low <= x <= high)

    top, left, bottom, right = view.box
    if "hexagonal" in str(map):  # its columns in row 0; row 1 has one to the left of it
        assert set(columns.split()) >= set(shown(ax.xaxis, left, right).split())
    else:
        assert shown(ax.xaxis, left, right) == columns
    assert shown(ax.yaxis, top, bottom) == rows
