import numpy as np
import pytest

from lgnn_jax import figures
from lgnn_jax.analysis.activations import Region
from lgnn_jax.analysis.correlations import correlation_maps
from lgnn_jax.analysis.filters import magnitudes
from lgnn_jax.analysis.topography import correlation_by_distance


@pytest.mark.parametrize("side", [3, 32])
def test_every_filter_lies_at_its_row_and_column(side):
    """Pictures of one grey each: the middle of place (i, j) has that of neuron 3 i + j."""
    greys = np.arange(12) / 12
    pictures = np.broadcast_to(greys[:, None, None, None], (12, side, side, 1))
    figure = figures.visualizations(pictures, (4, 3), "conv5_2", "constant")
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
        run: correlation_maps(rng.normal(size=(9, 24)), (6, 4), [(1, 1), (2, 3)])
        for run in ("baseline", "constant")
    }
    figure = figures.correlations(found, "conv5_2")
    images = [image for ax in figure.axes for image in ax.get_images()]
    assert len(images) == 4
    assert len({image.get_clim() for image in images}) == 1
    low, high = images[0].get_clim()
    assert low == -high  # white is no correlation
    expected = [values for maps in found.values() for values in maps.maps]
    for image, values in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image.get_array(), values)
    labels = [ax.get_ylabel() for ax in figure.axes] + [ax.get_xlabel() for ax in figure.axes]
    assert {"row", "column", "correlation"} <= {label.split("\n")[-1] for label in labels}


def test_a_region_is_outlined_once_around():
    """Three places in an L have a border of eight sides."""
    means = np.random.default_rng(0).normal(size=(2, 24))
    region = Region(np.array([0, 4, 5]), 3.0, 0.01)
    figure = figures.class_maps(
        means, ["a", "b"], (6, 4), "conv5_2", shared_by="a and b", regions=[region]
    )
    heat_maps = [ax for ax in figure.axes if ax.get_images()]
    assert [len(ax.lines) for ax in heat_maps] == [8, 8]
    ends = np.array([line.get_xydata() for line in heat_maps[0].lines])
    # Every corner of the outline begins one side and ends another.
    corners, counts = np.unique(ends.reshape(-1, 2), axis=0, return_counts=True)
    assert set(counts) == {2}
    assert corners.min() == -0.5
    np.testing.assert_array_equal(corners.max(axis=0), [1.5, 1.5])


def test_nothing_shared_is_said():
    figure = figures.class_maps(
        np.zeros((1, 24)), ["a"], (6, 4), "conv5_2", shared_by="a", regions=[], pictures=None
    )
    assert "a share no region" in figure.get_suptitle()


def test_first_layers_have_their_magnitudes_below():
    kernels = {
        run: np.random.default_rng(i).normal(size=(3, 3, 3, 16)) for i, run in enumerate("ab")
    }
    found = {run: magnitudes(kernel) for run, kernel in kernels.items()}
    pictures = {run: np.zeros((16, 3, 3, 3)) for run in kernels}
    figure = figures.first_layer(pictures, (4, 4), "conv1_1", found)
    for ax, run in zip(figure.axes, kernels, strict=True):
        assert ax.get_title() == run
        assert f"deviation of their log {found[run].deviation_of_log:.3f}" in ax.get_xlabel()


def test_distances_of_few_pairs_are_left_out():
    curve = correlation_by_distance(
        np.random.default_rng(0).normal(size=(24, 5)), (6, 4), shuffles=9
    )
    figure = figures.distance_curves({"constant": curve}, "conv5_2", (6, 4))
    x = figure.axes[0].lines[0].get_xdata()
    assert x.tolist() == curve.distance[curve.pairs >= 24].tolist()


def test_the_same_figure_makes_the_same_files(tmp_path):
    def files(name):
        figure = figures.order_by_layer({"a": {"conv1": 0.2}}, {"conv1": (0.0, 0.1)})
        return [path.read_bytes() for path in figures.save(figure, tmp_path / name)]

    first, second = files("one"), files("two")
    assert first == second
    assert first[0].startswith(b"\x89PNG")
    assert b"<svg" in first[1]


def test_names_with_dots_keep_them(tmp_path):
    figure = figures.order_by_layer({"a": {"conv1": 0.2}}, {"conv1": (0.0, 0.1)})
    paths = figures.save(figure, tmp_path / "run_0.5")
    assert [path.name for path in paths] == ["run_0.5.png", "run_0.5.svg"]
