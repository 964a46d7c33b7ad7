"""Layers that settle after training: what is measured, drawn and written."""

import json

import numpy as np
import pytest
from matplotlib.text import Text

import lgnn_jax as lgnn
from lgnn_jax.analysis.settled import judge
from lgnn_jax.atlas import measure, plots, settled, settled_files
from lgnn_jax.atlas.class_pictures import ClassPictures
from lgnn_jax.atlas.features import Features
from lgnn_jax.atlas.shown import shown_classes
from lgnn_jax.training import trained
from lgnn_jax.training.errors import RunError

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")


@pytest.fixture(scope="module")
def features():
    """Neurons tuned to places on a sheet, where each class has its own, in no order; and noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 240)
    centres = np.stack(np.mgrid[:3, :2], -1).reshape(6, 2) + 0.5
    shown = centres[labels] + 0.3 * rng.normal(size=(240, 2))
    tuned = (np.stack(np.mgrid[:8, :6], -1).reshape(48, 2) / [8 / 3, 3])[rng.permutation(48)]
    apart = np.square(shown[:, None] - tuned).sum(-1)
    layers = {"a/sheet": np.exp(-apart), "noise": rng.normal(size=(240, 48))}
    return Features(layers).labelled(labels, NAMES)


@pytest.fixture(scope="module")
def found(features):
    maps = {"a/sheet": lgnn.grid(8, 6), "noise": lgnn.hexagonal(8, 6)}
    return settled.settle_all(features, maps, shuffles=99, progress=lambda *_: None)


def _patch(strong, distances):
    """The largest part of some places that touch, by flooding."""
    left, largest = set(strong), 0
    while left:
        part, border = set(), {left.pop()}
        while border:
            place = border.pop()
            part.add(place)
            near = {j for j in left if distances[place, j] <= 1.5}
            border |= near
            left -= near
        largest = max(largest, len(part))
    return largest


def test_pictures_are_of_held_out_samples(features, found):
    """Worked out here in float64, class by class."""
    for name, layer in found.layers.items():
        held_out = layer.judged.held_out
        assert len(held_out) == 120
        values, labels = features.layers[name][held_out], features.labels[held_out]
        means = np.array([values[labels == c].mean(axis=0) for c in range(6)])
        expected = (means - means.mean(axis=0)) / means.std(axis=0)
        np.testing.assert_allclose(layer.pictures.responses, expected, atol=1e-6)
        place = np.argsort(layer.judged.places)
        distances = layer.judged.map.distances()
        for row, response in enumerate(expected):
            strong = np.argsort(-response)[:2]  # 5 % of 48
            assert layer.pictures.own_patches[row] == _patch(strong, distances) / 2
            assert layer.pictures.patches[row] == _patch(place[strong], distances) / 2


def test_curves_are_of_both_halves(features, found):
    layer = found.layers["a/sheet"]
    distances = np.maximum(np.rint(layer.judged.map.distances()), 1)
    values = features.layers["a/sheet"]
    for curve, samples, places in zip(
        layer.curves.values(),
        (layer.judged.held_out, layer.judged.settled_on, layer.judged.held_out),
        (layer.judged.places, layer.judged.places, np.arange(48)),
        strict=True,
    ):
        correlations = np.corrcoef(values[samples][:, places].T)
        first, second = np.triu_indices(48, 1)
        beside = distances[first, second] == 1
        expected = correlations[first, second][beside].mean()
        assert curve.value[0] == pytest.approx(expected, rel=1e-6)


def test_an_orderly_layer_has_a_map_and_noise_has_none(found):
    assert found.layers["a/sheet"].judged.verdict == "clear map"
    assert found.layers["noise"].judged.verdict == "no map"
    # The classes to draw are those of the layer with a map.
    assert found.shown == shown_classes(found.layers["a/sheet"].pictures)
    assert sorted(found.shown) == sorted(NAMES)


def test_the_usual_map_is_a_grid(features):
    only = Features({"a": features.layers["noise"]})
    found = settled.settle_all(only, {"a": None}, shuffles=99, sweeps=2, progress=lambda *_: None)
    assert found.layers["a"].judged.map == lgnn.grid(8, 6)
    assert found.shown == ()
    assert found.layers["a"].pictures is None
    assert list(settled_files.draw(found)) == ["a_distance"]


def test_classes_to_draw_are_orderly_and_different():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(5, 200))
    responses = np.concatenate([kinds, kinds + 0.1 * rng.normal(size=(5, 200))])
    names = tuple("abcdefghij")
    patches = np.array([0.9, 0.1, 0.5, 0.3, 0.4, 0.8, 0.2, 0.6, 0.35, 0.45])
    pictures = ClassPictures(names, responses, patches, patches)
    # Of each two that are alike the more orderly one; then the others, as there are eight places.
    assert shown_classes(pictures) == ("a", "h", "j", "i", "g", "f", "c", "e")


@pytest.mark.parametrize(
    ("classes", "labelled", "message"),
    [
        (["cot"], True, "no class 'cot'; did you mean 'cat'? There are 6, such as ant, bee, cat."),
        (["cat"], False, "classes can be drawn where samples have labels, and these have none."),
    ],
)
def test_classes_that_cannot_be_drawn(features, classes, labelled, message):
    given = features if labelled else Features(features.layers)
    with pytest.raises(RunError) as error:
        settled.settle_all(given, {}, classes=classes, progress=lambda *_: None)
    assert str(error.value) == message


def test_a_layer_that_cannot_be_judged_is_named(features):
    dead = Features({"dead": np.ones((8, 12))})
    with pytest.raises(RunError, match=r"^dead: 0 of 12 neurons vary"):
        settled.settle_all(dead, {"dead": None}, progress=lambda *_: None)
    # The halves depend on the number of samples alone.
    labels = np.zeros(30, int)
    labels[judge(features.layers["noise"][:30]).held_out[::2]] = 1
    labels[judge(features.layers["noise"][:30]).settled_on[0]] = 2
    few = Features({"few": features.layers["noise"][:30]}).labelled(labels, NAMES)
    with pytest.raises(RunError, match=r"^few: class 'cat' has no sample among the 15 held out"):
        settled.settle_all(few, {"few": None}, classes=["cat"], progress=lambda *_: None)


def _texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_figures_show_both_orders_on_one_scale(found):
    drawn = settled_files.draw(found)
    assert list(drawn) == [
        "a_sheet_classes", "a_sheet_distance", "noise_classes", "noise_distance"
    ]  # fmt: skip
    layer, figure = found.layers["a/sheet"], drawn["a_sheet_classes"]
    assert "clear map" in figure.get_suptitle()
    assert "no map" in drawn["noise_classes"].get_suptitle()
    maps = [ax for ax in figure.axes if ax.get_images()]
    assert [ax.get_title() for ax in maps[::2]] == list(found.shown)
    assert len({image.get_clim() for ax in maps for image in ax.get_images()}) == 1
    for k, name in enumerate(found.shown):
        row = NAMES.index(name)
        response = layer.pictures.responses[row]
        for ax, order, share in (
            (maps[2 * k], np.arange(48), layer.pictures.own_patches[row]),
            (maps[2 * k + 1], layer.judged.places, layer.pictures.patches[row]),
        ):
            shown = ax.get_images()[0].get_array()
            np.testing.assert_array_equal(shown, response[order].reshape(8, 6))
            assert ax.get_xlabel() == f"{share:.0%}"
    assert {"settled", "in the\nnetwork's\norder"} <= set(_texts(figure))
    hexagons = drawn["noise_classes"].axes[0].collections[0]
    row = NAMES.index(found.shown[0])
    np.testing.assert_array_equal(
        hexagons.get_array(), found.layers["noise"].pictures.responses[row]
    )
    said = _texts(drawn["a_sheet_distance"])
    assert {"settled, held-out", "settled, other samples", "network's order, held-out"} <= set(said)
    assert any("correlation of activations by distance, 8x6 map" in text for text in said)


@pytest.mark.parametrize(
    "map", [lgnn.ring(48), lgnn.sphere(48), lgnn.grid(4, 4, 3), lgnn.grid(48, 1)], ids=str
)
@pytest.mark.parametrize("classes", [1, 11])
def test_figures_on_any_map_keep_apart(map, classes):
    rng = np.random.default_rng(0)
    names = tuple(f"class_{i}" for i in range(classes))
    responses, patches = rng.normal(size=(classes, 48)), tuple(rng.random((2, classes)))
    places = rng.permutation(48)
    figure = plots.settled_classes(responses, names, map, places, "conv", patches=patches)
    assert len(figure.axes) == 2 * classes + 1
    boxes = [ax.get_position() for ax in figure.axes]
    for i, one in enumerate(boxes):
        assert one.width > 0.01
        assert one.height > 0.001
        assert min(one.x0, one.y0) >= 0
        assert max(one.x1, one.y1) <= 1
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_files_hold_places_and_numbers(found, tmp_path):
    drawn = dict(list(settled_files.draw(found).items())[:2])
    document = settled_files.write(tmp_path, found, drawn, {"input": "net.npz", "seed": 0})
    assert json.loads((tmp_path / "map.json").read_text()) == document
    assert document["figures"] == ["a_sheet_classes", "a_sheet_distance"]
    assert {x.name for x in tmp_path.iterdir()} == {
        "map.json", "places.npz", *(f"{name}{suffix}" for name in drawn for suffix in
                                    (".png", ".svg")),
    }  # fmt: skip
    with np.load(tmp_path / "places.npz") as places:
        assert set(places) == set(found.layers)
        for name, layer in found.layers.items():
            assert places[name].dtype == np.int32
            np.testing.assert_array_equal(places[name], layer.judged.places)
            assert sorted(places[name].tolist()) == list(range(48))
    entry = document["layers"]["noise"]
    assert entry["verdict"] == "no map"
    assert entry["map"] == "8x6 hexagonal"
    assert list(entry["classes"]["by_name"]) == list(NAMES)
    assert document["versions"]["numpy"] == np.__version__
    # Figures of an earlier call go.
    settled_files.write(tmp_path, found, {}, {})
    assert {x.name for x in tmp_path.iterdir()} == {"map.json", "places.npz"}


def test_a_baseline_settles_by_itself(runs, tiny_dataset):
    """In an analysis: half of the test images settle its neurons, the others judge."""
    request = measure.Request(visualize="none", shuffles=20, layers=("conv4_1",))
    both = trained.load(runs, tiny_dataset)
    found = measure.measure(both, tiny_dataset, request, progress=lambda *_: None)
    baseline, constant = (found.numbers["runs"][name]["layers"] for name in found.runs)
    assert not any("settled" in entry for entry in constant.values())
    assert all("settled" in entry for entry in baseline.values())
    means = both[0].activations(tiny_dataset.test_images, list(both[0].maps))["conv4_1"]
    expected = judge(means, tiny_dataset.test_labels, (8, 4), shuffles=99)
    entry = baseline["conv4_1"]["settled"]
    assert {k: x for k, x in entry.items() if k != "classes"} == {
        k: x for k, x in expected.as_json().items() if k != "classes"
    }
    places = found.array("baseline", "conv4_1", "settled_places")
    np.testing.assert_array_equal(places, expected.places)
    assert found.array("baseline", "conv4_1", "settled_responses").shape == (
        len(entry["classes"]["by_name"]), 32
    )  # fmt: skip
    assert "0/conv5_2/settled_places" not in found.arrays
    json.dumps(found.numbers, allow_nan=False)


def test_layers_that_have_no_map_to_judge_do_not_stop_an_analysis(
    runs, tiny_dataset, printed, monkeypatch
):
    def refuse(features, name, map, **settling):
        raise ValueError("0 of 4 neurons vary.")

    monkeypatch.setattr(measure, "settle_layer", refuse)
    request = measure.Request(visualize="none", shuffles=20)
    (t,) = trained.load(runs[:1], tiny_dataset)
    found = measure.measure([t], tiny_dataset, request, progress=lambda *_: None)
    entry = found.layer("baseline", "conv5_2")["settled"]
    assert entry == {"refused": "0 of 4 neurons vary."}
    rows = [x for x in printed(found.numbers).splitlines() if x.startswith("conv5_2 ")]
    assert rows[1].split() == ["conv5_2", *["\u2013"] * 6]


def test_neurons_that_never_answer_are_in_no_curve_and_in_no_patch(features):
    """As they are in no number of the judgement beside them."""
    values = features.layers["a/sheet"].copy()
    values[:, ::3] = 0
    found = settled.settle_layer(
        Features({"a": values}).labelled(features.labels, NAMES), "a", lgnn.grid(8, 6), shuffles=99
    )
    live = np.setdiff1d(np.arange(48), np.arange(0, 48, 3))
    held_out = found.judged.held_out
    assert found.judged.left_out.tolist() == list(range(0, 48, 3))
    pairs = found.curves["settled, other samples"].pairs
    assert pairs.sum() == len(live) * (len(live) - 1) / 2
    own = found.curves["network's order, held-out"]
    assert own.pairs.tolist() == pairs.tolist()
    where = np.argsort(found.judged.places)
    on_map = np.sort(where[live])  # the places that live neurons have, whichever these are
    distances = np.rint(found.judged.map.distances()[np.ix_(on_map, on_map)])
    correlations = np.corrcoef(values[held_out][:, live].T)
    first, second = np.triu_indices(len(live), 1)
    beside = distances[first, second] <= 1
    assert own.value[0] == pytest.approx(correlations[first, second][beside].mean(), rel=1e-6)
    assert found.pictures.patches.mean() == pytest.approx(found.judged.classes.patch.value)


def test_layers_may_be_called_like_arguments_of_numpy(features, tmp_path):
    values = features.layers["noise"]
    only = Features({"file": values, "allow_pickle": values, "args": values})
    maps = dict.fromkeys(only.layers)
    found = settled.settle_all(only, maps, shuffles=99, sweeps=1, progress=lambda *_: None)
    settled_files.write(tmp_path, found, {}, {})
    with np.load(tmp_path / settled_files.PLACES) as places:
        assert sorted(places.files) == ["allow_pickle", "args", "file"]
        np.testing.assert_array_equal(places["file"], found.layers["file"].judged.places)
