import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from lgnn_jax.analysis.activations import Region
from lgnn_jax.analysis.correlations import correlation_maps
from lgnn_jax.analysis.filters import magnitudes
from lgnn_jax.analysis.shuffles import AgainstShuffles
from lgnn_jax.analysis.topography import correlation_by_distance
from lgnn_jax.atlas import plots
from lgnn_jax.maps.grid import grid, line, ring
from lgnn_jax.maps.hexagonal import hexagonal
from lgnn_jax.maps.sphere import sphere

ORDER = {"a": {"conv1": AgainstShuffles(0.2, np.array([0.0, 0.1]))}}


def _texts(figure):
    """All that a figure says."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def _page(figure):
    """Draws a figure, as that places its parts; returns a function to where one lies, in dots."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    return lambda artist: artist.get_window_extent(renderer)


@pytest.mark.parametrize("side", [3, 32])
def test_every_filter_lies_at_its_row_and_column(side):
    """Pictures of one grey each: the middle of place (i, j) has that of neuron 3 i + j."""
    greys = np.arange(12) / 12
    pictures = np.broadcast_to(greys[:, None, None, None], (12, side, side, 1))
    figure = plots.visualizations(pictures, (4, 3), "conv5_2", "constant")
    (image,) = figure.axes[0].get_images()
    left, right, bottom, top = image.get_extent()
    pixels = image.get_array()
    height, width = pixels.shape[:2]
    for j, grey in enumerate(greys):
        row, column = divmod(j, 3)
        y = int((row - top) / (bottom - top) * height)
        x = int((column - left) / (right - left) * width)
        np.testing.assert_allclose(pixels[y, x], grey)


def test_heat_maps_are_the_correlations_and_share_a_scale():
    rng = np.random.default_rng(0)
    found = {
        run: correlation_maps(rng.normal(size=(9, 24)), (6, 4), [5, 11])
        for run in ("baseline", "constant")
    }
    figure = plots.correlations(found, (6, 4), "conv5_2")
    images = [image for ax in figure.axes for image in ax.get_images()]
    assert len(images) == 4
    assert len({image.get_clim() for image in images}) == 1
    low, high = images[0].get_clim()
    assert low == -high  # white is no correlation
    expected = [values for maps in found.values() for values in maps.values]
    for image, values in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image.get_array(), values.reshape(6, 4))
    labels = [ax.get_ylabel() for ax in figure.axes] + [ax.get_xlabel() for ax in figure.axes]
    assert {"row", "column", "correlation (grey: the filter itself)"} <= set(labels)
    for image, (row, column) in zip(images, [(1, 1), (2, 3)] * 2, strict=True):
        assert np.argwhere(image.get_array().mask).tolist() == [[row, column]]


def test_a_region_is_outlined_once_around():
    """Three places in an L have a border of eight sides."""
    means = np.random.default_rng(0).normal(size=(2, 24))
    region = Region(np.array([0, 4, 5]), 3.0, 0.01)
    figure = plots.class_maps(
        means, ["a", "b"], (6, 4), "conv5_2", shared_by=["a", "b"], regions=[region]
    )
    heat_maps = [ax for ax in figure.axes if ax.get_images()]
    assert [len(ax.lines) for ax in heat_maps] == [8, 8]
    ends = np.array([line.get_xydata() for line in heat_maps[0].lines])
    # Every corner of the outline begins one side and ends another.
    corners, counts = np.unique(ends.reshape(-1, 2), axis=0, return_counts=True)
    assert set(counts) == {2}
    assert corners.min() == -0.5
    np.testing.assert_array_equal(corners.max(axis=0), [1.5, 1.5])


def test_outlines_at_the_edge_stay_inside():
    """Not a dot of them lies outside the map, for all the width of the line."""
    means = np.zeros((1, 24))
    region = Region(np.arange(24), 3.0, 0.01)
    figure = plots.class_maps(means, ["a"], (6, 4), "conv5_2", shared_by=["a"], regions=[region])
    heat_map = next(ax for ax in figure.axes if ax.get_images())
    for spine in heat_map.spines.values():
        spine.set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    dots = np.asarray(canvas.buffer_rgba())[::-1, :, :3].astype(int)
    coloured = np.argwhere(np.abs(dots - [0xD5, 0x5E, 0x00]).sum(axis=2) < 30)
    box = heat_map.get_window_extent()
    assert coloured.size
    assert coloured[:, 0].min() >= box.y0 - 1
    assert coloured[:, 0].max() <= box.y1 + 1
    assert coloured[:, 1].min() >= box.x0 - 1
    assert coloured[:, 1].max() <= box.x1 + 1


@pytest.mark.parametrize(
    ("by", "classes", "regions", "said"),
    [
        (["a"], 1, 0, "a has no region beyond chance"),
        (["a_b"], 1, 1, "outlined: regions of a b (p = 0.01)"),
        (["trees"], 5, 0, "trees share no region beyond chance"),
        (["a", "b"], 2, 0, "a and b share no region beyond chance"),
        (["a", "b", "c"], 3, 1, "outlined: regions that a, b and c share (p = 0.01)"),
    ],
)
def test_what_is_shared_is_said(by, classes, regions, said):
    figure = plots.class_maps(
        np.zeros((classes, 24)),
        [str(i) for i in range(classes)],
        (6, 4),
        "conv5_2",
        shared_by=by,
        regions=[Region(np.array([0]), 3.0, 0.01)] * regions,
    )
    assert figure.get_suptitle().split("\n")[1] == said


@pytest.mark.parametrize("classes", [1, 3])
def test_the_colour_bar_is_as_tall_as_the_maps(classes):
    figure = plots.class_maps(
        np.random.default_rng(0).normal(size=(classes, 24)),
        [str(i) for i in range(classes)],
        (6, 4),
        "conv5_2",
        shared_by=["trees"],
        regions=[Region(np.array([0, 1]), 3.0, 0.01)],
        pictures=np.zeros((24, 8, 8, 3)),
    )
    where = _page(figure)
    maps, (bar,), (region,) = (
        [ax for ax in figure.axes if ax.get_ylabel() in ("row", "") and len(ax.get_title()) == 1],
        [ax for ax in figure.axes if "ReLU" in ax.get_ylabel()],
        [ax for ax in figure.axes if "filters" in ax.get_title()],
    )
    assert len(maps) == classes
    for ax in maps:
        assert where(ax.patch).y0 == pytest.approx(where(bar.patch).y0, abs=0.5)
        assert where(ax.patch).y1 == pytest.approx(where(bar.patch).y1, abs=0.5)
    assert region.get_ylabel() == "row"
    title = where(figure.findobj(lambda x: isinstance(x, Text) and "map" in x.get_text())[0])
    middle = (where(maps[0].patch).x0 + where(bar.patch).x1) / 2
    assert (title.x0 + title.x1) / 2 == pytest.approx(middle, abs=0.3 * figure.dpi)


def test_filters_that_are_dead_are_called_so():
    rng = np.random.default_rng(0)
    some, all_ = rng.normal(size=(9, 24)), np.full((9, 24), 0.1)
    some[:, 5] = 0  # row 1, column 1 of the map
    found = {
        name: correlation_maps(kernel, (6, 4), [5, 11])
        for name, kernel in (("some", some), ("all", all_))
    }
    pictures = {name: np.zeros((24, 8, 8, 1)) for name in found}
    titles = [ax.get_title() for ax in plots.correlations(found, (6, 4), "conv5_2", pictures).axes]
    threshold = found["some"].threshold
    assert titles[:-1] == [
        "filter [1, 1]: dead",
        "filter [2, 3]",
        f"outlined: neighbours with\ncorrelation \u2265 {threshold:.2f}",
        "filter [1, 1]: dead",
        "filter [2, 3]: dead",
        "no neighbours that correlate:\nthe filters' weights are all equal",
    ]
    curves = {
        name: correlation_by_distance(kernel.T, (6, 4), shuffles=9)
        for name, kernel in (("some", some), ("all", all_))
    }
    figure = plots.distance_curves(curves, "conv5_2", (6, 4))
    assert {"some", "all: all filters dead"} <= set(_texts(figure))
    figure = plots.order_by_layer(ORDER | {"b": {"conv1": None}}, {})
    assert " dead" in _texts(figure)


def test_a_neighbour_of_two_filters_is_outlined_in_both_colours():
    kernel = np.random.default_rng(0).normal(size=(90, 24))
    kernel[:, 6] = kernel[:, 5] + kernel[:, 7]  # row 1, between the chosen ones
    found = {"a": correlation_maps(kernel, (6, 4), [5, 7])}
    assert all(6 in near for near in found["a"].neighbours)
    figure = plots.correlations(found, (6, 4), "conv5_2", {"a": np.zeros((24, 8, 8, 1))})
    top = [
        (line.get_color(), line.get_linewidth())
        for line in figure.axes[2].lines
        if np.array_equal(line.get_xydata(), [[1.5, 0.5], [2.5, 0.5]])
    ]
    # The line drawn later covers half of the one below it.
    assert top == [(plots.OUTLINES[1], 6.0), (plots.OUTLINES[0], 3.0)]


def test_first_layers_have_their_magnitudes_below():
    kernels = {
        run: np.random.default_rng(i).normal(size=(3, 3, 3, 16)) for i, run in enumerate("ab")
    }
    found = {run: magnitudes(kernel) for run, kernel in kernels.items()}
    pictures = {run: np.zeros((16, 3, 3, 3)) for run in kernels}
    figure = plots.first_filters(pictures, (4, 4), "conv1_1", found)
    for ax, run in zip(figure.axes, kernels, strict=True):
        assert ax.get_title() == run
        assert f"deviation of their log {found[run].deviation_of_log:.3f}" in ax.get_xlabel()
    assert "each scaled by itself" in figure.get_suptitle()


def test_first_layers_of_grey_images():
    """With a bar of their greys, norms of as many digits, and no logarithm of zero."""
    kernels = {"a": np.zeros((1, 1, 1, 2)), "b": np.array([[[[0.48, 0.714]]]])}
    found = {run: magnitudes(kernel) for run, kernel in kernels.items()}
    pictures = {run: np.zeros((2, 3, 3, 1)) for run in kernels}
    figure = plots.first_filters(pictures, (2, 1), "conv1_1", found)
    first, second, bar = figure.axes
    assert first.get_xlabel() == "column\nall filters are zero"
    assert "L2 norms 0.480 to 0.714" in second.get_xlabel()
    assert [text.get_text() for text in bar.get_yticklabels()] == ["least", "largest"]


def test_bars_of_shuffled_maps_are_whole():
    shuffled = np.array([-0.3, 0.3, -0.1, 0.1])
    runs = {
        name: {"conv1": AgainstShuffles(0.2, centre + shuffled), "conv2": None}
        for name, centre in (("a", 0.0), ("b", 0.1))
    }
    figure = plots.order_by_layer(runs, {"untrained": {"conv1": 0.0}})
    (ax,) = figure.axes
    low, high = ax.get_ylim()
    bars = [bar.get_bbox() for bar in ax.patches]
    for bar, centre in zip(bars, (0.0, 0.1), strict=True):
        assert bar.y0 == pytest.approx(centre - 2 * shuffled.std())
        assert bar.y1 == pytest.approx(centre + 2 * shuffled.std())
        assert low < bar.y0
        assert bar.y1 < high
    assert bars[0].x1 <= bars[1].x0  # each network beside its own


def test_distances_of_few_pairs_are_left_out():
    curve = correlation_by_distance(
        np.random.default_rng(0).normal(size=(24, 5)), (6, 4), shuffles=9
    )
    figure = plots.distance_curves({"constant": curve}, "conv5_2", (6, 4))
    x = figure.axes[0].lines[0].get_xdata()
    assert x.tolist() == curve.distance[curve.pairs >= 24].tolist()


def test_the_same_figure_makes_the_same_files(tmp_path):
    def files(name):
        figure = plots.order_by_layer(ORDER, {"untrained": {"conv1": 0.0}})
        return [path.read_bytes() for path in plots.save(figure, tmp_path / name)]

    first, second = files("one"), files("two")
    assert first == second
    assert first[0].startswith(b"\x89PNG")
    assert b"<svg" in first[1]


def test_names_with_dots_keep_them(tmp_path):
    figure = plots.order_by_layer(ORDER, {"untrained": {"conv1": 0.0}})
    paths = plots.save(figure, tmp_path / "run_0.5")
    assert [path.name for path in paths] == ["run_0.5.png", "run_0.5.svg"]


MAPS = [grid(8, 4, wrap=True), hexagonal(8, 6), ring(32), grid(4, 4, 3), sphere(100), line(2)]


@pytest.mark.parametrize("map", MAPS, ids=str)
def test_figures_of_any_map(map):
    """Each names the map; rows and columns only where there are any; all parts are on the page."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 3, map.count))
    found = {"a": correlation_maps(kernel, map, [0, map.count // 2])}
    pictures = {"a": rng.random((map.count, 8, 8, 3))}
    region = Region(np.array([0, 1]), 3.0, 0.01)
    drawn = [
        plots.first_filters({"a": pictures["a"]}, map, "conv1", {"a": magnitudes(kernel)}),
        plots.correlations(found, map, "conv1", pictures),
        plots.class_maps(
            rng.normal(size=(3, map.count)), list("abc"), map, "conv1",
            shared_by=["a", "b"], regions=[region], pictures=pictures["a"],
        ),
        plots.visualizations(pictures["a"], map, "conv1", "a"),
        plots.distance_curves(
            {"a": correlation_by_distance(kernel.reshape(27, -1).T, map, shuffles=9)}, "conv1", map
        ),
    ]  # fmt: skip
    has_rows = str(map) in ("8x4 torus", "8x6 hexagonal")
    for figure in drawn:
        said = " ".join(_texts(figure))
        assert str(map) in figure.get_suptitle()
        assert f"{map} map" in figure.get_suptitle() or not str(map)[0].isdigit()
        if figure is not drawn[-1]:
            assert ("row" in said.split()) == has_rows
            assert ("column" in said.split()) == has_rows
        where = _page(figure)
        for ax in figure.axes:
            assert where(ax.patch).x0 >= 0
            assert where(ax.patch).x1 <= figure.bbox.x1 + 0.5
            assert where(ax.patch).y0 >= -0.5
            assert where(ax.patch).y1 <= figure.bbox.y1
        boxes = [where(ax.patch) for ax in figure.axes]
        for i, one in enumerate(boxes):
            assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_a_torus_is_a_torus_in_every_figure():
    """What lies at two ends of the paper is shown as one."""
    torus = grid(8, 4, wrap=True)
    greys = np.arange(32) / 32
    pictures = np.broadcast_to(greys[:, None, None, None], (32, 24, 24, 1))
    region = Region(np.array([0, 3, 28]), 3.0, 0.01)  # the place at the top left, and around it
    figure = plots.class_maps(
        np.zeros((1, 32)), ["a"], torus, "conv1",
        shared_by=["a"], regions=[region], pictures=pictures,
    )  # fmt: skip
    heat_map, _, part = figure.axes
    assert len(heat_map.lines) == len(part.lines) == 8  # an L has eight sides
    corners = np.concatenate([line.get_xydata() for line in part.lines])
    assert set(np.unique(corners, axis=0, return_counts=True)[1]) == {2}  # all around
    pixels = part.get_images()[0].get_array()[12::26, 12::26, 0]
    np.testing.assert_allclose(pixels, greys[[[31, 28], [3, 0]]], rtol=1e-6)

    found = {"a": correlation_maps(np.random.default_rng(0).normal(size=(9, 32)), torus, [5, 7])}
    figure = plots.correlations(found, torus, "conv1", {"a": pictures})
    pixels = figure.axes[2].get_images()[0].get_array()[12::26, 12::26, 0]
    np.testing.assert_allclose(pixels[:, 0], greys[[28, 0, 4, 8, 12]], rtol=1e-6)  # from row 7 on


def test_chosen_filters_lie_where_their_numbers_say():
    """On hexagons, by row and column; on a ring, by place."""
    rng = np.random.default_rng(0)
    for map, place, name in ((hexagonal(8, 6), 13, "[2, 1]"), (ring(48), 13, "13")):
        found = {"a": correlation_maps(rng.normal(size=(9, 48)), map, [place])}
        ax = plots.correlations(found, map, "conv1").axes[0]
        assert ax.get_title() == f"filter {name}"
        values = ax.collections[0].get_array()
        assert np.flatnonzero(values.mask).tolist() == [place]
        np.testing.assert_array_equal(values.data, found["a"].values[0])
