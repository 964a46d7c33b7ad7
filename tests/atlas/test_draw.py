import jax
import numpy as np
import pytest

from lgnn_jax.analysis.activations import class_means
from lgnn_jax.analysis.feature_vis import visualize
from lgnn_jax.analysis.filters import filter_features, normalized_filters
from lgnn_jax.analysis.topography import topography
from lgnn_jax.atlas import plots
from lgnn_jax.atlas.folder import file_names
from lgnn_jax.training import trained


def test_figures_show_the_runs_own_arrays(runs, tiny_dataset, tmp_path, monkeypatch, analysis):
    drawn = {}
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.update({path.name: figure}))
    found = trained.load(runs[::-1], tiny_dataset)  # the baseline second
    document, _ = analysis(found, tiny_dataset, tmp_path, classes=("b",))

    layers = {t.name: document["runs"][t.name]["layers"] for t in found}
    lines = {
        line.get_label().replace("\n", " "): line.get_ydata()
        for line in drawn["order"].axes[0].lines
    }
    for label, which, name in (
        ("constant", "constant", "weights"),
        ("baseline", "baseline", "weights"),
        ("baseline, sorted after training", "baseline", "sorted_after_training"),
        ("untrained", "baseline", "untrained_weights"),
    ):
        wanted = [entry[name]["neighbours"]["value"] for entry in layers[which].values()]
        np.testing.assert_array_equal(lines[label], wanted)

    shown = {"before training": found[0].initial}  # of one seed, both runs began alike
    shown |= {t.name: t.params for t in found}
    for (name, params), ax in zip(shown.items(), drawn["first_filters"].axes, strict=True):
        assert ax.get_title() == name
        pixels = ax.get_images()[0].get_array()  # tiles of 24 pixels with one around
        kernel = params["conv1_1"]["kernel"]
        for j, picture in enumerate(normalized_filters(kernel)):
            row, column = divmod(j, 2)
            tile = pixels[26 * row + 1 : 26 * row + 25, 26 * column + 1 : 26 * column + 25]
            np.testing.assert_allclose(tile[4::8, 4::8], picture, rtol=1e-6)

    for t, row in zip(found, (0, 1), strict=True):
        made = layers[t.name]["conv5_2"]["visualisations"]
        images = visualize(
            lambda images, t=t: t.apply(images)["conv5_2"],
            made["neurons"],
            image_shape=(32, 32, 3),
            steps=2,
        ).images
        axes = [ax for ax in drawn["conv5_2_correlations"].axes if ax.get_images()]
        per_row = len(axes) // 2
        mosaic = axes[per_row * row + per_row - 1].get_images()[0]
        place = made["neurons"].index(0)  # the first neuron is at the top left
        np.testing.assert_allclose(mosaic.get_array()[1:33, 1:33], images[place], atol=1e-4)
        assert mosaic.get_extent()[0] == -0.5
        assert mosaic.get_extent()[3] == -0.5
        means = t.activations(tiny_dataset.test_images, list(t.maps))["conv5_2"]
        by_class = class_means(means, tiny_dataset.test_labels, 5)
        heat_map = drawn[f"conv5_2_classes_b_{t.name}"].axes[0].get_images()[0].get_array()
        np.testing.assert_allclose(heat_map, by_class[1].reshape(8, 4), atol=1e-6)

    curve = topography(
        filter_features(found[0].params["conv5_2"]["kernel"]), (8, 4), shuffles=20
    ).by_distance
    band = drawn["conv5_2_distance"].axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(
        (curve.mean + 2 * curve.deviation)[curve.pairs >= 32].max()
    )


def test_runs_of_several_seeds_have_each_their_own_beginning(
    runs, tiny_dataset, tmp_path, analysis
):
    first, second = trained.load(runs, tiny_dataset)
    other = second._replace(initial=jax.tree.map(lambda x: x[..., ::-1], second.initial))
    with pytest.MonkeyPatch.context() as patch:
        drawn, saved = [], {}
        patch.setattr(plots, "order_by_layer", lambda runs, controls: drawn.append(controls))
        patch.setattr(plots, "save", lambda figure, path: saved.update({path.name: figure}))
        titles = []
        for found in ([first, second], [first, other]):
            analysis(found, tiny_dataset, tmp_path, visualize="none")
            titles.append([ax.get_title() for ax in saved["first_filters"].axes])
    assert titles == [["before training", "baseline", "constant"], ["baseline", "constant"]]
    assert list(drawn[0]) == ["baseline, sorted after training", "untrained"]
    assert list(drawn[1])[1:] == ["untrained: baseline", "untrained: constant"]


def test_names_of_files():
    """Each once, short, and without what a file system may not take."""
    names = ["a/b", "a_b", "A/b", "a_b_1", "x" * 300, "x" * 301, "c++"]
    found = file_names(names)
    assert found[0] == "a_b"
    assert len({name.casefold() for name in found}) == 7  # for file systems that know no case
    assert max(map(len, found)) < 90
    assert found[-1] == "c++"
