import dataclasses
import re
import warnings

import jax
import numpy as np
import pytest

from lgnn_jax.analysis.activations import class_means, shared_regions
from lgnn_jax.analysis.feature_vis import visualize
from lgnn_jax.analysis.filters import filter_features
from lgnn_jax.analysis.topography import topography
from lgnn_jax.atlas import measure
from lgnn_jax.maps.grid import grid, ring
from lgnn_jax.maps.hexagonal import hexagonal
from lgnn_jax.maps.settling import settle
from lgnn_jax.maps.sphere import sphere
from lgnn_jax.maps.table import LayerMap
from lgnn_jax.training import trained
from lgnn_jax.training.errors import RunError


def _settled(weights, map):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kernel of few weights is none of few samples
        return settle(weights, map)


def test_numbers_are_those_of_the_layers_own_arrays(runs, tiny_dataset, tmp_path, analysis):
    """Against direct calls, each of which has tests of its own."""
    found = trained.load(runs, tiny_dataset)
    document, _ = analysis(found, tiny_dataset, tmp_path, classes=("a+c",))
    for t in found:
        layers = document["runs"][t.name]["layers"]
        for layer, entry in layers.items():
            features = filter_features(t.params[layer]["kernel"])
            order = _settled(features.T, tuple(entry["map"]))
            means = t.activations(tiny_dataset.test_images, list(t.maps))[layer]
            for name, expected in (
                ("weights", features),
                ("untrained_weights", filter_features(t.initial[layer]["kernel"])),
                ("activations", means.T),
                ("sorted_after_training", features[order]),
            ):
                numbers = topography(expected, entry["map"], shuffles=20)
                for figure in ("neighbours", "morans_i", "smoothness", "trustworthiness"):
                    value = getattr(numbers, figure)
                    wanted = [value.value, value.z or 0, value.p]
                    actual = [entry[name][figure][field] or 0 for field in ("value", "z", "p")]
                    assert actual == pytest.approx(wanted, rel=1e-5, abs=1e-6), (layer, name)
                assert entry[name]["dead"] == numbers.dead.tolist()
        last = layers["conv5_2"]
        by_class = class_means(means, tiny_dataset.test_labels, 5)
        shared = shared_regions(by_class, (8, 4), [0, 2])
        assert [region["neurons"] for region in last["classes"]["a+c"]["regions"]] == [
            region.neurons.tolist() for region in shared.regions
        ]
        made = last["visualisations"]
        again = visualize(
            lambda images, t=t: t.apply(images)["conv5_2"],
            made["neurons"],
            image_shape=(32, 32, 3),
            steps=2,
        )
        np.testing.assert_allclose(made["activations"], again.activations, rtol=1e-4, atol=1e-5)
        exceeding = again.activations > means[:, made["neurons"]].max(axis=0)
        assert made["exceed_best_of_images"] == pytest.approx(exceeding.mean(), abs=0.04)


def test_dead_filters_are_counted_and_nothing_is_nan(
    runs, tiny_dataset, tmp_path, analysis, printed
):
    (t,) = trained.load(runs[1:], tiny_dataset)
    params = jax.tree.map(np.array, t.params)
    params["conv5_2"]["kernel"][..., 3] = 0
    params["bn5_2"]["scale"][3] = 0
    params["conv1_1"]["kernel"][..., :] = 0
    dead = t._replace(params=params)
    document, _ = analysis([dead], tiny_dataset, tmp_path)
    layers = document["runs"]["constant"]["layers"]
    assert layers["conv5_2"]["weights"]["dead"] == [3]
    assert 3 in layers["conv5_2"]["activations"]["dead"]
    assert layers["conv1_1"]["weights"]["dead"] == [0, 1, 2, 3]
    assert layers["conv1_1"]["weights"]["neighbours"] == {
        "value": 0, "shuffled": 0, "shuffled_deviation": 0, "z": None, "p": 1
    }  # fmt: skip
    text = (tmp_path / "analysis.json").read_text()
    assert not re.search(r"NaN|Infinity", text)
    said = printed(document)
    (row,) = [line for line in said.splitlines() if line.startswith("conv1_1 ")]
    assert row.split()[2:7] == ["\u2013"] * 5  # neighbours, p, sorted, Moran, trust
    assert "conv5_2: 1 of 32 filters dead (weights all equal)" in said
    assert "conv1_1: 4 of 4 filters dead" in said


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"layers": ("conv5_3",)},
            r"no convolution 'conv5_3' with a map; did you mean 'conv5_\d'\? Those with one are "
            r"conv1_1, .*, conv5_2\.",
        ),
        ({"layers": ("head",)}, r"no convolution 'head' with a map\. Those with one are conv1_1,"),
        ({"classes": ("a+z",)}, "random has no class or set of classes 'z'"),
        ({"classes": ("a+",)}, r"the name of a class is missing in 'a\+'\."),
        ({"classes": ("a+b+c+d+e",)}, "has all 5 classes"),
    ],
)
def test_what_does_not_exist(runs, tiny_dataset, tmp_path, request_, message, analysis):
    with pytest.raises(RunError, match=message):
        analysis(trained.load(runs[:1], tiny_dataset), tiny_dataset, tmp_path, **request_)
    assert not list(tmp_path.iterdir())


def test_maps_that_differ_and_maps_that_one_run_lacks(runs, tiny_dataset, tmp_path, analysis):
    first, second = trained.load(runs, tiny_dataset)

    def with_maps(t, **maps):
        return t._replace(plan=t.plan._replace(maps=t.plan.maps | maps))

    other = with_maps(second, **{"conv2_1/kernel": LayerMap(grid(8, 1))})
    with pytest.raises(RunError, match="conv2_1 is on map 4x2 in one and on map 8x1 in the other"):
        analysis([first, other], tiny_dataset, tmp_path, visualize="none")
    lacking = with_maps(second, **{"conv2_1/kernel": None})
    document, _ = analysis([lacking, first], tiny_dataset, tmp_path, visualize="none")
    assert list(document["runs"]["constant"]["layers"])[1] == "conv2_1"
    bare = with_maps(first, **dict.fromkeys(first.plan.maps))
    with pytest.raises(RunError, match="baseline has no layer with a map"):
        analysis([bare], tiny_dataset, tmp_path)


def test_a_map_is_what_the_plan_says_whatever_the_padding(runs, tiny_dataset):
    """A run whose filter wraps has the maps of its plan, planes or not."""
    (t,) = trained.load(runs[1:], tiny_dataset)
    wrapped = dataclasses.replace(t.config, som=dataclasses.replace(t.config.som, padding="wrap"))
    plane = t._replace(config=wrapped)
    map = grid(8, 4, wrap=True)
    maps = t.plan.maps | {"conv5_2/kernel": LayerMap(map)}
    torus = plane._replace(plan=t.plan._replace(maps=maps))
    request = measure.Request(visualize="none", shuffles=20)
    found = {}
    for name, run in (("plane", plane), ("torus", torus)):
        found[name] = measure.measure([run], tiny_dataset, request, progress=lambda *_: None)
    assert found["plane"].numbers["runs"]["constant"]["config"]["som"]["padding"] == "wrap"
    plane, torus = (x.layer("constant", "conv5_2") for x in found.values())
    assert plane["map"] == [8, 4]
    assert (torus["map"], torus["neurons"]) == ("8x4 torus", 32)
    # On the torus each filter has four neighbours, on the plane those at the edges have fewer.
    correlations = np.corrcoef(filter_features(t.kernel("conv5_2"))).reshape(8, 4, 8, 4)
    rows, columns = np.mgrid[:8, :4]
    below = correlations[rows, columns, (rows + 1) % 8, columns]
    right = correlations[rows, columns, rows, (columns + 1) % 4]
    values = [x["weights"]["neighbours"]["value"] for x in (plane, torus)]
    of_plane = np.concatenate([below[:-1].ravel(), right[:, :-1].ravel()]).mean()
    assert values == pytest.approx([of_plane, np.mean([below, right])], rel=1e-6)
    assert plane["correlations"]["filters"] == [[1, 1], [1, 3]]
    assert torus["correlations"]["filters"] == [5, 7]


@pytest.mark.parametrize("map", [ring(32), hexagonal(8, 4), sphere(32)], ids=str)
def test_other_maps_have_their_places_by_number(runs, tiny_dataset, map):
    (t,) = trained.load(runs[1:], tiny_dataset)
    maps = t.plan.maps | {"conv5_2/kernel": LayerMap(map)}
    t = t._replace(plan=t.plan._replace(maps=maps))
    request = measure.Request(visualize="none", shuffles=20)
    found = measure.measure([t], tiny_dataset, request, progress=lambda *_: None)
    entry = found.layer("constant", "conv5_2")
    assert (entry["map"], entry["neurons"]) == (str(map), 32)
    kernel, chosen = t.kernel("conv5_2"), entry["correlations"]["filters"]
    values = np.corrcoef(filter_features(kernel))
    near = map.distances() <= 1.5
    threshold = np.quantile(values[np.triu_indices(32, 1)], 0.95)
    for place, neighbours in zip(chosen, entry["correlations"]["neighbours"], strict=True):
        like = near[place] & (values[place] >= threshold - 1e-12)
        like[place] = False
        assert neighbours == np.flatnonzero(like).tolist()
    assert found.array("constant", "conv5_2", "correlations").shape == (len(chosen), 32)
